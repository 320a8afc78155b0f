"""Evaluators: each file turns what was generated into numbers with intervals."""
