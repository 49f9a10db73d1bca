"""Scripted experts: what to do next, from what the world really is. They act through the action alone."""
