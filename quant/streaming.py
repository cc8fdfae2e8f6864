"""Profile a checkpoint that does not fit into memory: one tensor at a time, straight from its shards.

safetensors files are memory-mapped and read slice by slice, so the peak is that of one block of rows and its
chain tables, whatever the size of the checkpoint. Rows are independent in a residual chain, hence a tensor may
be profiled in blocks of rows and the blocks added up; only the choice of sparse rows is made block by block.
"""
# pyright: basic
# safetensors and tensor methods are untyped in their stubs.

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from quant.errors import QuantError
from quant.profile import OptionError, profile_layer
from quant.scheme import Scheme

BLOCK_WEIGHTS = 1 << 23


@dataclass(frozen=True)
class TensorProfile:
    """Profile of one tensor of a checkpoint."""

    name: str
    shape: tuple[int, ...]
    options: list[OptionError]


def shard_paths(checkpoint: Path) -> list[Path]:
    """Files of a checkpoint: one file, an index file, or a folder with either."""
    if checkpoint.is_dir():
        index = checkpoint / "model.safetensors.index.json"
        if index.exists():
            return shard_paths(index)
        found = sorted(checkpoint.glob("*.safetensors"))
        if not found:
            raise QuantError(f"{checkpoint}: no .safetensors file in this folder")
        return found
    if checkpoint.name.endswith(".index.json"):
        try:
            names = set(json.loads(checkpoint.read_text())["weight_map"].values())
        except (KeyError, ValueError, AttributeError) as error:
            raise QuantError(f"{checkpoint}: not an index of safetensors shards") from error
        paths = [checkpoint.parent / Path(name).name for name in sorted(names)]
        missing = [path.name for path in paths if not path.exists()]
        if missing:
            raise QuantError(f"{checkpoint}: shard {missing[0]} is missing")
        return paths
    if not checkpoint.exists():
        raise QuantError(f"{checkpoint}: no such file")
    return [checkpoint]


def is_product_weight(name: str, shape: tuple[int, ...]) -> bool:
    """Matrices and kernels that are not embeddings: what a product would multiply with."""
    return len(shape) >= 2 and "embed" not in name.lower() and min(shape[:2]) > 1


def profile_checkpoint(
    checkpoint: Path,
    schemes: Sequence[Scheme],
    *,
    select: Callable[[str, tuple[int, ...]], bool] = is_product_weight,
    block: int = BLOCK_WEIGHTS,
) -> Iterator[TensorProfile]:
    """Profile every selected tensor of a checkpoint, shard by shard, in order of name.

    `block` is the largest number of weights in memory at once (at least one row). Errors and bytes are those
    of `profile_layer`; multiply-accumulates are counted once per weight.
    """
    from safetensors import SafetensorError, safe_open

    for path in shard_paths(checkpoint):
        try:
            with safe_open(path, framework="pt") as shard:
                for name in sorted(shard.keys()):
                    view = shard.get_slice(name)
                    shape = tuple(view.get_shape())
                    if select(name, shape) and view.get_dtype() in ("F64", "F32", "F16", "BF16"):
                        yield TensorProfile(name, shape, _profile_blocks(view, shape, schemes, block))
        except SafetensorError as error:
            raise QuantError(f"{path}: not a readable safetensors file ({error})") from error


def _profile_blocks(
    view: object, shape: tuple[int, ...], schemes: Sequence[Scheme], block: int
) -> list[OptionError]:
    per_row = int(torch.Size(shape[1:]).numel())
    step = max(1, block // max(per_row, 1))
    total: list[OptionError] = []
    energy = 0.0
    for begin in range(0, shape[0], step):
        weight = view[begin : min(begin + step, shape[0])].to(torch.float32)  # type: ignore[index]
        part = profile_layer(weight.numpy(), schemes, macs=weight.numel())
        energy += float(weight.square().sum(dtype=torch.float64))
        total = [_add(a, b) for a, b in zip(total, part, strict=True)] if total else part
    return [replace(o, relative_error=o.weight_error / energy if energy else 0.0) for o in total]


def _add(left: OptionError, right: OptionError) -> OptionError:
    return replace(
        left,
        weight_error=left.weight_error + right.weight_error,
        sup_bound=max(left.sup_bound, right.sup_bound),
        measured_sup=max(left.measured_sup, right.measured_sup),
        bops=left.bops + right.bops,
        bytes=left.bytes + right.bytes,
    )
