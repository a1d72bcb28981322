"""Figures: everything that draws. Functions take tensors and numbers and return figures."""
