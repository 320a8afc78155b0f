"""One file a command: flags and gin, nothing else."""
