"""What a configuration promises before it trains: probabilities, the paper's theorems, costs, and a search for better settings."""
