"""Tasks and mixtures: what Poet learns, by name. A user's own files look like paper.py."""
