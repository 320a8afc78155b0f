"""Floor 1: layers that know shapes, not video."""
