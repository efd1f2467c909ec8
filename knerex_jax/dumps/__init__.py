"""Every tensor of an inference in one file."""
