"""Robust aggregation inside other frameworks. Each module asks for its own framework alone, and nothing here imports them all."""
