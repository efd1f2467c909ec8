"""The nef: compiled models in one file."""
