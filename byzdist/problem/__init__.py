"""What is minimized: data, their shares, models, gradients, and the minimum where it can be found."""
