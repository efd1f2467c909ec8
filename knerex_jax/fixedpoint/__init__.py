"""Formats and integer steps of the arithmetic contract."""
