"""Robust aggregation inside other frameworks. Each module imports only its own framework, and nothing imports all of them."""
