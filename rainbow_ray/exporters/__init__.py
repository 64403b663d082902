"""Export of trained models to ONNX and transformers."""
