"""The fixed program in forms that other tools run: integers on plain ONNX Runtime, and a QDQ model."""
