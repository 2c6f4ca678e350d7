"""Files in, answers out: probabilities, sets, and silence where the network knows nothing."""
