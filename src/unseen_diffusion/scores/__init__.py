"""Scores: pure functions from features (or uint8 images) to numbers with intervals, in float64.

Every call checks its inputs (``inputs``), not only under test: features may come from anywhere.
"""
