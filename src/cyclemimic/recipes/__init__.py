"""Whole configurations, as functions that return them."""
