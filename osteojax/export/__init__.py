"""A checkpoint as files that others read: exported, described, read back."""
