"""Checkpoint of a long calibration: one safetensors file, its state in the header as JSON, replaced atomically."""

import contextlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from quant.errors import QuantError

_KEY = "state"


def write_checkpoint(path: Path, state: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """Write to a temporary neighbour, flush to disk, rename: a kill leaves the old file or the new one."""
    content = save({name: tensor.contiguous() for name, tensor in tensors.items()}, {_KEY: json.dumps(state)})
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".part")
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        Path(temporary).replace(path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            Path(temporary).unlink()
        raise


def read_checkpoint(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
    """State and tensors, or None when there is no checkpoint yet."""
    if not path.exists():
        return None
    try:
        with safe_open(str(path), "pt") as stream:
            metadata: dict[str, str] = stream.metadata() or {}
            tensors = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118
        return json.loads(metadata[_KEY]), tensors
    except Exception as error:
        raise QuantError(
            f"{path}: not a checkpoint of this program ({type(error).__name__}); delete it"
        ) from error
