"""Benchmarks: one timed job per file."""

import os

# The environment before Lightning is imported, which changes it.
ENVIRONMENT = dict(os.environ)
