"""hwsim: which quantized form of a model should run on a device, how fast and how accurate.

::

    import hwsim

    plan = hwsim.plan(target="edge_gpu", model="vit_b", max_latency="4ms")
    artifact = hwsim.compile(plan)
    hwsim.run(artifact, input="image.jpg")

Three verbs share their names with the packages behind them (``compile``, ``report``, ``simulate``). Python binds a
package to its parent when it is first imported and never again, so these are imported here, before the functions
take their names. ``hwsim.compile`` is therefore always the function, and ``from hwsim.compile.artifact import ...``
always works; only ``import hwsim.compile as name`` hands out the function.
"""

import os
from importlib import import_module

# The same seed must give the same bytes of plan.json. Without this switch MKL's float products differ in the last
# bit with the address of their operands; it is read at the first product and costs nothing measurable.
os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")

for _name in ("compile", "report", "simulate"):
    import_module(f"hwsim.{_name}")

from hwsim.api import (  # noqa: E402
    bench,
    compile,
    diff,
    evaluate,
    load_target,
    plan,
    quantize,
    report,
    run,
    simulate,
    solve,
)
from hwsim.errors import HwsimError, InfeasibleError, UserError, ViolationError  # noqa: E402

__all__ = [
    "plan", "report", "quantize", "evaluate", "compile", "run", "bench", "simulate", "solve", "diff", "load_target",
    "HwsimError", "InfeasibleError", "UserError", "ViolationError",
]  # fmt: skip
