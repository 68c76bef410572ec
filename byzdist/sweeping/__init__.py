"""Sweeps: which runs a study has, how they are trained, and what they show."""
