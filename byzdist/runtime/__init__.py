"""A run: its processes, the loops of server and workers, and how both start and end."""
