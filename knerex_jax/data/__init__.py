"""Calibration data: sources and preprocessing."""
