"""The shared library of an artifact, as its file stands now.

The system's loader gives what it has loaded under a path once, although the file was written anew since: kernels of
the artifact that lay there before.
"""
# pyright: basic
# tvm_ffi is untyped where it matters.

import shutil
import tempfile
from pathlib import Path
from typing import Any

_FIRST: dict[Path, str] = {}
"""Hash of the library that this process first loaded from each path."""


def open_library(file: Path, digest: str) -> Any:
    """The module in the file; one with other content than before is loaded from a copy under a name of its own."""
    import tvm_ffi

    if _FIRST.setdefault(file.resolve(), digest) == digest:
        return tvm_ffi.load_module(str(file))
    with tempfile.TemporaryDirectory(prefix="hwsim-") as folder:  # what is mapped outlives its name
        copy = shutil.copyfile(file, Path(folder) / f"{digest}.so")
        return tvm_ffi.load_module(str(copy))
