"""The collective transport; see server.py."""
