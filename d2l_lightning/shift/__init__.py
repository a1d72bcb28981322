"""Distribution shift: detect it, estimate it and correct it."""
