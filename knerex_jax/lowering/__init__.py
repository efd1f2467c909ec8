"""Graph to pure JAX functions."""
