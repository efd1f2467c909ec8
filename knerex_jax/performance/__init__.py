"""The evaluator: how fast a model is on a platform, and why."""
