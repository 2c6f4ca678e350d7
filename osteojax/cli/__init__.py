"""The console script: one file a command, each with its flags and its call."""
