"""Training: a pure step below, one loop with all the effects above."""
