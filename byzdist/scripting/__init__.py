"""What a script or a notebook calls: `byzdist.train`, and what it returns."""
