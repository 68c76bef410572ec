"""The functions for scripts and notebooks: `byzdist.train`, and the run that it returns."""
