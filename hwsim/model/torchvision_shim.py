"""Lets ``import torchvision`` (which timm and transformers do) succeed beside a torch it was not built for.

torchvision registers fake kernels for its compiled operators while it is imported. If its shared library does
not load (a CPU build of torch beside the PyPI wheel of torchvision), the operators are unknown and the import
fails. Nothing here needs those operators, so their schemas are declared and the import goes through.
"""

import importlib.util
import threading
from pathlib import Path

_SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_OPERATORS = ("nms", "qnms")
_lock = threading.Lock()
_libraries: list[object] = []  # keeps the registration alive; torch drops it with the object


def declare_missing_operators() -> None:
    """Make ``import torchvision`` possible: load its operators, or declare the two it looks for."""
    with _lock:
        if _libraries:
            return
        import torch

        _load_compiled_operators()
        library = torch.library.Library("torchvision", "FRAGMENT")
        for name in _OPERATORS:
            if not hasattr(torch.ops.torchvision, name):
                library.define(name + _SCHEMA)
        _libraries.append(library)


def _load_compiled_operators() -> None:
    import torch

    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        return
    for path in sorted(Path(spec.origin).parent.glob("_C*.so")):
        try:
            torch.ops.load_library(str(path))
        except OSError:
            continue  # built for another torch
        return
