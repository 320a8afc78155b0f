"""Floor 2: the models, one frozen config and one module each."""
