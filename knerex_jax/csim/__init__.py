"""The hardware simulator: runs an NPU program on bytes, by the arithmetic contract, with code of its own."""
