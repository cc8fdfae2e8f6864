"""Quantization: numerics, methods and the graph passes that apply them. Import the file you need; this package stays light."""
