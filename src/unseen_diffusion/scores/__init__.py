"""Scores: pure numerics from features (or uint8 images) to numbers with intervals, float64 throughout."""
