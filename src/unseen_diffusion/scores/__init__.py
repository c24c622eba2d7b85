"""Scores: pure numerics from features (or uint8 images) to numbers with intervals, float64 throughout.

Inputs are checked at every call (``inputs``), not only under test: features may come from anywhere.
"""
