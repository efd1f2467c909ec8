"""The end-to-end simulator: pictures in, what the application would say out; float, fixed and nef side by side."""
