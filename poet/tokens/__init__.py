"""Floor 0: the id table, clip sizes, tasks as values, and where everything sits in a sequence."""
