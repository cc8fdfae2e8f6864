"""A quantized model on disk: `quantized.json` and `weights.safetensors`, bit-identical after a round trip.

The JSON says what every layer is and carries the sha256 of the weights; codes are packed to their own width
(4-bit weights take 4 bits). Files are written to a temporary name and renamed, so a reader never meets half.
"""
# pyright: basic
# safetensors and torch hand out untyped arrays.

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from quant.activation import ActQuantizer
from quant.errors import QuantError
from quant.group_bias import GroupBias
from quant.log_codes import LogQuantizer
from quant.packing import pack, unpack
from quant.qlayer import Holds, QuantizedLayer
from quant.scheme import Scheme
from quant.terms import Term

SCHEMA = "hwsim-quantized-model"
DOCUMENT, WEIGHTS = "quantized.json", "weights.safetensors"


@dataclass(frozen=True, eq=False)
class Parts:
    """What a quantized model consists of, apart from its graph."""

    layers: dict[str, QuantizedLayer]
    activations: dict[str, ActQuantizer | LogQuantizer]
    floats: dict[str, Tensor]
    range_source: str
    holds: dict[str, Holds]


def write(directory: Path, parts: Parts) -> str:
    """Save; returns the sha256 of the document, which covers everything."""
    tensors = {f"float.{name}": tensor.contiguous().clone() for name, tensor in parts.floats.items()}
    layers = [_layer_document(layer, tensors) for layer in parts.layers.values()]
    weights = save_tensors(tensors)
    document = {
        "schema": SCHEMA,
        "schema_version": 1,
        "range_source": parts.range_source,
        "weights": {"file": WEIGHTS, "sha256": hashlib.sha256(weights).hexdigest()},
        "activations": {name: _activation_document(q) for name, q in parts.activations.items()},
        "ensemble": parts.holds,
        "layers": layers,
    }
    text = json.dumps(document, indent=1).encode()
    directory.mkdir(parents=True, exist_ok=True)
    _write_atomically(directory / WEIGHTS, weights)
    _write_atomically(directory / DOCUMENT, text)
    return hashlib.sha256(text).hexdigest()


def read(directory: Path) -> Parts:
    """Load and verify; raises `QuantError` where a file is missing, altered or not of this kind."""
    try:
        document: dict[str, Any] = json.loads((directory / DOCUMENT).read_text(encoding="utf-8"))
        weights = (directory / WEIGHTS).read_bytes()
    except (OSError, ValueError) as error:
        raise QuantError(
            f"{directory}: not a quantized model ({error}); make one with hwsim quantize"
        ) from error
    if document.get("schema") != SCHEMA or document.get("schema_version") != 1:
        raise QuantError(f"{directory / DOCUMENT}: not a {SCHEMA} document of version 1")
    if hashlib.sha256(weights).hexdigest() != document["weights"]["sha256"]:
        raise QuantError(
            f"{directory / WEIGHTS}: sha256 differs from the one in {DOCUMENT}; the file was altered"
        )
    tensors = load_tensors(weights)
    try:
        layers = [_read_layer(entry, tensors) for entry in document["layers"]]
        activations = {name: _read_activation(fields) for name, fields in document["activations"].items()}
    except (KeyError, TypeError) as error:
        raise QuantError(f"{directory / DOCUMENT}: field {error} is missing or wrong") from error
    holds = {name: tuple(map(tuple, groups)) for name, groups in document["ensemble"].items()}
    floats = {name[6:]: tensor for name, tensor in tensors.items() if name.startswith("float.")}
    return Parts(
        {layer.name: layer for layer in layers}, activations, floats, document["range_source"], holds
    )


def _activation_document(quantizer: ActQuantizer | LogQuantizer) -> dict[str, Any]:
    """JSON of an activation quantizer; the kind tells them apart."""
    return asdict(quantizer) | ({"kind": "log"} if isinstance(quantizer, LogQuantizer) else {})


def _read_activation(fields: dict[str, Any]) -> ActQuantizer | LogQuantizer:
    if fields["kind"] != "log":
        return ActQuantizer(**fields)
    return LogQuantizer(**{name: value for name, value in fields.items() if name != "kind"})


def _layer_document(layer: QuantizedLayer, tensors: dict[str, Tensor]) -> dict[str, Any]:
    """JSON of a layer; its arrays go to `tensors`."""
    prefix = f"layer.{layer.name}"
    for order, term in enumerate(layer.terms):
        packed = torch.from_numpy(pack(term.codes.numpy(), term.bits))
        given = {"codes": packed, "scale": term.scale, "rows": term.rows, "cols": term.cols}
        for name, tensor in given.items():
            if tensor is not None:
                tensors[f"{prefix}.{order}.{name}"] = tensor.contiguous()
    if layer.bias is not None:
        tensors[f"{prefix}.bias"] = layer.bias.contiguous().clone()
    if layer.groups is not None:
        tensors[f"{prefix}.groups.labels"] = layer.groups.labels.to(torch.uint8)
        tensors[f"{prefix}.groups.values"] = layer.groups.values.contiguous().clone()
    return {
        "name": layer.name,
        "kind": layer.kind,
        "scheme": str(layer.scheme),
        "shape": list(layer.shape),
        "bias": layer.bias is not None,
        "groups": layer.groups is not None,
        "inputs": list(layer.inputs),
        "terms": [{"bits": term.bits, "shape": list(term.codes.shape)} for term in layer.terms],
    }


def _read_layer(entry: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> QuantizedLayer:
    prefix = f"layer.{entry['name']}"
    terms: list[Term] = []
    for order, fields in enumerate(entry["terms"]):
        rows, cols = (tensors.get(f"{prefix}.{order}.{name}") for name in ("rows", "cols"))
        shape = tuple(int(size) for size in fields["shape"])
        packed = tensors[f"{prefix}.{order}.codes"].numpy()
        codes = unpack(packed, int(fields["bits"]), int(np.prod(shape))).reshape(shape)
        stored = torch.from_numpy(np.ascontiguousarray(codes))
        terms.append(Term(stored, tensors[f"{prefix}.{order}.scale"], int(fields["bits"]), rows, cols))
    groups = None
    if entry.get("groups"):
        labels = tensors[f"{prefix}.groups.labels"].to(torch.int64)
        groups = GroupBias(labels, tensors[f"{prefix}.groups.values"])
    return QuantizedLayer(
        entry["name"],
        entry["kind"],
        Scheme.parse(entry["scheme"]),
        tuple(entry["shape"]),
        tuple(terms),
        tensors[f"{prefix}.bias"] if entry["bias"] else None,
        tuple(entry["inputs"]),
        groups,
    )


def _write_atomically(path: Path, data: bytes) -> None:
    """Temporary file, fsync, rename."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except OSError as error:
        os.unlink(temporary)
        raise QuantError(f"{path}: cannot write ({error.strerror})") from error
