"""Floor 3: from a plan, parameters and what is given to codes."""
