"""K members of one architecture (folds, seeds, settings) that are trained side by side in one fit."""
