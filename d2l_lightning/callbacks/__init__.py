"""What watches a fit."""
