"""The model as a frozen graph: reading, simplifying, writing."""
