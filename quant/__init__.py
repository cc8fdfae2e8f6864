"""Quantization: numerics, methods and graph passes. Import the file you need: this package stays light."""
