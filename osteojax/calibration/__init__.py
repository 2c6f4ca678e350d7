"""What validation teaches about a network's answers: how sure, how many, and when none."""
