"""Graph rewrites, one per function."""
