"""Runs a compiled artifact: needs numpy and tvm-ffi (on an NVIDIA device its driver), neither torch nor the compiler.

from hwsim.runtime import load

model = load("art/")
logits = model(image)["output0"]
"""

from hwsim.runtime.model import Model, load
from hwsim.runtime.runner import Port, Runner

__all__ = ["Model", "Port", "Runner", "load"]
