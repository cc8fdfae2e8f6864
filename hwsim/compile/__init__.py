"""From a quantized graph to integer kernels with Apache TVM."""
