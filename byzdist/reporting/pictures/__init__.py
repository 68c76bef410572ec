"""Pictures of runs: what run folders say, which runs make a curve, and the kinds of pictures."""
