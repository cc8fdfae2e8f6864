"""Compiled functions where the cache cannot be written."""

import numba
import pytest

from quant.jit import jit


@pytest.mark.parametrize("writable", [True, False])
def test_without_a_place_for_the_cache_the_function_is_compiled_all_the_same(monkeypatch, writable):
    compile_with_numba, asked = numba.njit, []

    def njit(**options):
        asked.append(options["cache"])
        if options["cache"] and not writable:
            raise RuntimeError("cannot cache function 'twice': no locator available for file")
        return compile_with_numba(**{**options, "cache": False})

    def twice(value):
        return 2 * value

    with monkeypatch.context() as patched:
        patched.setattr(numba, "njit", njit)
        compiled = jit(twice)
    assert compiled(21) == 42
    assert compiled.py_func is twice
    assert asked == ([True] if writable else [True, False])
