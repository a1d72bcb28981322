"""Optimizers written from scratch, and optimizers for models that are trained side by side."""
