"""Trained networks as ONNX files, which other programs run."""
