"""Getting a float ONNX ready: optimized, cut, given other shapes, and compared with what it was."""
