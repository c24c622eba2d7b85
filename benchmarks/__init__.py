"""Benchmarks, run by `python -m benchmarks`. None of them is a test."""
