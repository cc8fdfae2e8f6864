"""hwsim: which quantized form of a model should run on a device, how fast and how accurate."""

import os

# The same seed must give the same bytes of plan.json. Without this switch MKL's float products differ in the last
# bit with the address of their operands; it is read at the first product and costs nothing measurable.
os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")
