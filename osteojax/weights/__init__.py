"""ImageNet weights of any origin, read safely and converted to the project's own layout."""
