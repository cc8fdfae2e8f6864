"""Published quantization methods, one file each."""
