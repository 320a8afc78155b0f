"""Token records: how they are written, read in order, turned into tasks and batches."""
