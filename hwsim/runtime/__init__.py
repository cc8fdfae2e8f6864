"""Runs a compiled artifact: needs numpy and tvm-ffi, neither torch nor the compiler.

from hwsim.runtime import load

model = load("art/")
logits = model(image)["output0"]
"""

from hwsim.runtime.model import Model, Port, load

__all__ = ["Model", "Port", "load"]
