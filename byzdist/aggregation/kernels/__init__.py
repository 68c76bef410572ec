"""Compiled loops over long vectors, in C on the CPU and by torch.compile on a GPU; and the selection networks of the column rules."""
