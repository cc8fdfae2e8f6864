"""The verbs as Python functions: the same names, the same flags, results as typed objects.

Nothing heavy is imported before a function is called.
"""

from hwsim.api.deploying import bench, compile, evaluate, quantize, run, simulate
from hwsim.api.planning import diff, plan, solve
from hwsim.api.reporting import load_target, report

__all__ = [
    "plan", "solve", "diff", "quantize", "evaluate", "compile", "run", "bench", "simulate", "report", "load_target",
]  # fmt: skip
