"""The fixed program: instructions, tensors, static bounds."""
