"""How server and workers talk: the collective and the star transport; see README.md here."""
