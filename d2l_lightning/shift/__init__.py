"""Distribution shift: estimate it, correct it, detect it."""
