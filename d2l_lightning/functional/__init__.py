"""Pure tensor functions, a formula each: no state, and nothing known but torch."""
