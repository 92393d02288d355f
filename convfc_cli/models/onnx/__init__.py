"""ONNX models: what their nodes compute, sizes, constants, and which layers are linear."""
