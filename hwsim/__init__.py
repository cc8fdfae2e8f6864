"""hwsim: which quantized form of a model should run on a device, how fast and how accurate."""
