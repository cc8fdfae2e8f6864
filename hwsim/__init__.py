"""hwsim: which quantized form of a model should run on a device, how fast, how accurate, and the compiled module."""
