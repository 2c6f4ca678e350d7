"""A run on disk: its checkpoints, its record, and how it is opened again."""
