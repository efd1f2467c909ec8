"""A grid of settings, tried one by one, with one calibration wherever several can share it."""
