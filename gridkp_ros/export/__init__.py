"""Weights -> ONNX graphs and a manifest, with proof that both agree."""
