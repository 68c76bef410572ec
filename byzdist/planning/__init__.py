"""What a configuration promises before anything trains: probabilities, the paper's theorems, costs, and a search for better settings."""
