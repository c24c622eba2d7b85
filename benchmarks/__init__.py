"""Benchmarks: `python -m benchmarks` measures, nothing here is a test."""
