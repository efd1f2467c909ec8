"""From ranges to a plan and its program."""
