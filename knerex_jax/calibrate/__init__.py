"""Streaming range statistics."""
