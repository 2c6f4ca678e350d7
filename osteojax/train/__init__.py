"""Training: the loop, the step, and what they are made of."""
