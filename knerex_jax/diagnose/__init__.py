"""Where a plan loses accuracy, and what would win it back."""
