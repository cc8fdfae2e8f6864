"""One place that compiles a function with numba, and falls back gracefully where nothing may be cached.

The compiled code is cached beside the source, or, where the installation is read-only, in the user's cache
directory; where neither can be written the function is compiled anew in each process.
"""

from collections.abc import Callable
from typing import TypeVar, cast

import numba

Function = TypeVar("Function", bound=Callable[..., object])


def jit(function: Function, *, fastmath: bool = False, parallel: bool = False) -> Function:
    """Compile ``function`` on its first call; the plain function stays reachable as ``.py_func``."""

    def compiled(cache: bool) -> Function:
        made = numba.njit(error_model="numpy", cache=cache, fastmath=fastmath, parallel=parallel)(function)
        return cast(Function, made)

    try:
        return compiled(cache=True)
    except RuntimeError:  # numba: "no locator available" when no cache directory can be written
        return compiled(cache=False)
