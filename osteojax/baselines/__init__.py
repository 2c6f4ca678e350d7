"""What a network must beat: simple classifiers of clinical columns, of texture, and of a frozen network's features."""
