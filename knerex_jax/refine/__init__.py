"""What improves a plan by running it: adjusted biases and other refinements."""
