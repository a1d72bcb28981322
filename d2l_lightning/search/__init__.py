"""Hyperparameter search over members that train side by side, on one machine or many."""
