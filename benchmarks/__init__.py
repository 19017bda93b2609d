"""Measurements of what the package claims, beside its peers."""
