"""Integrations of rwml: one module or folder each, each behind its own extra."""
