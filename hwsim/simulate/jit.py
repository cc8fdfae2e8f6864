"""One place that compiles a kernel with numba, and falls back gracefully where nothing may be cached.

The compiled code is cached beside the source, or, where the installation is read-only, in the user's cache
directory; where neither can be written the kernel is compiled anew in each process.
"""

from collections.abc import Callable
from typing import TypeVar, cast

import numba

Function = TypeVar("Function", bound=Callable[..., object])


def jit(function: Function) -> Function:
    """Compile ``function`` on its first call; the plain function stays reachable as ``.py_func``."""
    try:
        return cast(Function, numba.njit(cache=True, error_model="numpy")(function))
    except RuntimeError:  # numba: "no locator available" when no cache directory can be written
        return cast(Function, numba.njit(error_model="numpy")(function))
