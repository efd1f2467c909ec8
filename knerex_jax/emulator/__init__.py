"""The fixed program as pure JAX functions on codes."""
