"""The layer graph of a model without waiting for torch twice: exported once, then read from a cache.

The cache holds the graph document (shapes and names, no weights) under the user's cache directory
(``XDG_CACHE_HOME``); its key covers the model's name, batch, sequence and the versions of the libraries that export it.
"""

import contextlib
import hashlib
import os
from importlib import metadata
from pathlib import Path

from hwsim import files
from hwsim.errors import UserError
from hwsim.model.graph import LayerGraph

GRAPHS = 2  # raised when the same model gives another graph: views that copy are layers
LIBRARIES = ("hwsim", "torch", "timm", "transformers", "torchvision")


def layer_graph(model: str, *, batch: int = 1, sequence: int | None = None) -> LayerGraph:
    """The graph of a named model; a model in a file is exported every time, since the file may change."""
    path = None if Path(model.partition(":")[0]).suffix else cache_path(model, batch, sequence)
    if path is not None and path.is_file():
        try:
            return LayerGraph.from_json(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, KeyError, TypeError, UserError):
            pass  # an unreadable cache entry is written anew
    from hwsim.model.load import load_model, of_batch

    graph = of_batch(load_model(model, device="meta", batch=batch, sequence=sequence), batch).graph
    if path is not None:
        with contextlib.suppress(UserError):  # a cache that cannot be written costs only time
            files.write_text(path, graph.to_json())
    return graph


def cache_path(model: str, batch: int, sequence: int | None) -> Path:
    """Where the graph of this model is kept."""
    versions = ",".join(f"{name}={_version(name)}" for name in LIBRARIES)
    key = hashlib.sha256(f"{GRAPHS}|{model}|{batch}|{sequence}|{versions}".encode()).hexdigest()[:24]
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return root / "hwsim" / "graphs" / f"{key}.json"


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "none"
