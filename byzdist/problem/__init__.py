"""What is minimized: data, splits, models, gradients, and the minimum if it can be found."""
