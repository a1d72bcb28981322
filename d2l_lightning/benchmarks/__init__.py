"""Benchmarks: one timed job per file."""
