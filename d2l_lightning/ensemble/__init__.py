"""K members of one architecture trained side by side, in one fit: folds, seeds, settings."""
