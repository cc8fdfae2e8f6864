"""Where the numbers of a network come from: a file, the hub, or a seed.

Files are never unpickled: ``.safetensors`` hold no code, and ``.pth`` are read by torch's restricted reader.
Random weights are drawn tensor by tensor from a stream of their own (seed and name), so they depend neither on the
number of threads nor on what else the network contains.
"""

import hashlib
import logging
import math
import os
import warnings
import zlib
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from hwsim.errors import UserError

log = logging.getLogger(__name__)

EMBEDDING_STD = 0.02  # of token, position and class embeddings (Radford et al. 2019, BERT, ViT)


@dataclass(frozen=True)
class WeightsInfo:
    """What the numbers are.

    Attributes:
        kind: ``pretrained`` (hub), ``file``, ``random``, or ``meta`` (shapes without numbers).
        source: Full hub name or file name; None for random and meta.
        sha256: Of the file, or of all tensors for ``pretrained`` and ``random``; None for meta.
        seed: Of random weights.
    """

    kind: Literal["pretrained", "file", "random", "meta"]
    source: str | None = None
    sha256: str | None = None
    seed: int | None = None


def fill_random(module: nn.Module, seed: int) -> None:
    """Fill every parameter: matrices normal with the variance that keeps signals alive, gains 1, shifts 0."""
    rules = _rules(module)
    with ThreadPoolExecutor(max_workers=max(1, min(4, os.cpu_count() or 1))) as pool:
        list(pool.map(lambda rule: _fill(rule[0], rule[1], rule[2], seed), rules))


def _rules(module: nn.Module) -> list[tuple[str, Tensor, float | None]]:
    """Each distinct parameter with the standard deviation it gets; None keeps its constant value."""
    found: list[tuple[str, Tensor, float | None]] = []
    owners = dict(module.named_modules())
    for name, parameter in module.named_parameters():
        owner = owners[name.rpartition(".")[0]]
        found.append((name, parameter.data, _deviation(owner, parameter)))
    return found


def _deviation(owner: nn.Module, parameter: Tensor) -> float | None:
    if parameter.dim() < 2:
        return None
    if isinstance(owner, nn.Embedding) or parameter.shape[0] == 1:
        return EMBEDDING_STD
    fan_in = math.prod(parameter.shape[1:])
    # He et al. 2015 behind rectified convolutions; LeCun et al. 1998 for the rest.
    return math.sqrt((2.0 if parameter.dim() == 4 else 1.0) / fan_in)


def _fill(name: str, tensor: Tensor, deviation: float | None, seed: int) -> None:
    if deviation is None:
        tensor.fill_(1.0 if name.endswith(("weight", "gamma", "scale")) else 0.0)
        return
    stream = np.random.Generator(np.random.SFC64([seed, zlib.crc32(name.encode())]))
    numbers = stream.standard_normal(tensor.numel(), dtype=np.float32)
    numbers *= np.float32(deviation)
    tensor.copy_(torch.from_numpy(numbers).view(tensor.shape))


def sha256_of_tensors(tensors: Mapping[str, Tensor]) -> str:
    """Hash of names, types, shapes and bytes of all tensors."""

    def digest(item: tuple[str, Tensor]) -> bytes:
        name, tensor = item
        head = f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode()
        data: Any = tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy()
        return hashlib.sha256(head + hashlib.sha256(data).digest()).digest()

    with ThreadPoolExecutor(max_workers=max(1, min(4, os.cpu_count() or 1))) as pool:
        return hashlib.sha256(b"".join(pool.map(digest, sorted(tensors.items())))).hexdigest()


def sha256_of_file(path: Path) -> str:
    """Hash of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Tensors of a ``.safetensors`` or ``.pth`` file; nothing in the file is executed."""
    try:
        if not path.is_file():
            raise UserError(f"--weights {path}: no such file; give a .safetensors or .pth file")
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's advice to its own developers about pickle protocols
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except UserError:
        raise
    except Exception as error:
        reason = _reason(path, error)
        raise UserError(f"--weights {path}: {reason}; save the tensors as .safetensors") from error
    return _tensors(path, loaded)


def _reason(path: Path, error: Exception) -> str:
    if isinstance(error, OSError):
        return f"cannot be read ({error.strerror or error})"
    text = str(error)
    if "weights_only" in text or "Unsupported" in text or "GLOBAL" in text:
        return "holds more than plain tensors, and nothing in it is executed (refused)"
    return f"is not a valid {path.suffix or 'weights'} file ({type(error).__name__})"


def _tensors(path: Path, loaded: Any) -> dict[str, Tensor]:
    """The state dict inside a checkpoint: under a usual name, else the only dictionary that holds tensors."""
    for wrapper in ("state_dict", "model", "model_state_dict"):
        if isinstance(loaded, dict) and isinstance(loaded.get(wrapper), dict):
            loaded = loaded[wrapper]
            break
    if isinstance(loaded, dict) and not _holds_tensors(loaded):
        inner = {name: item for name, item in loaded.items() if _holds_tensors(item)}
        if len(inner) > 1:
            raise UserError(
                f"--weights {path}: holds several state dicts ({', '.join(map(str, inner))}); save one of them alone"
            )
        loaded = next(iter(inner.values()), None)
    if not _holds_tensors(loaded):
        raise UserError(f"--weights {path}: holds no state dict of tensors; save model.state_dict()")
    return {str(key): _dense(item) for key, item in loaded.items() if isinstance(item, Tensor)}


def _holds_tensors(item: Any) -> bool:
    return isinstance(item, dict) and any(isinstance(value, Tensor) for value in item.values())


def _dense(tensor: Tensor) -> Tensor:
    return tensor if tensor.layout == torch.strided else tensor.to_dense()


def load_file(module: nn.Module, path: Path) -> None:
    """Copy the tensors of a file into a module; every key and shape must fit."""
    loaded = _strip_prefix(read_state_dict(path), set(module.state_dict()))
    own = module.state_dict()
    shared = _aliases(module)
    for names in shared:
        present = [name for name in names if name in loaded]
        loaded.update({name: loaded[present[0]] for name in names if present and name not in loaded})
    optional = {name for name in own if name.endswith("num_batches_tracked")}
    missing = sorted(set(own) - set(loaded) - optional)
    surplus = sorted(set(loaded) - set(own) - _harmless(loaded))
    wrong = [name for name in own if name in loaded and own[name].shape != loaded[name].shape]
    _complain(path, "lacks", missing, "it belongs to another model, or is incomplete")
    _complain(path, "has unexpected", surplus, "it belongs to another model")
    if wrong:
        name = wrong[0]
        raise UserError(
            f"--weights {path}: {name} has shape {tuple(loaded[name].shape)}, the model needs "
            f"{tuple(own[name].shape)}{_more(wrong)}; choose the architecture the weights were trained for"
        )
    broken = [name for name, tensor in loaded.items() if name in own and not bool(tensor.isfinite().all())]
    if broken:
        raise UserError(
            f"--weights {path}: {broken[0]} holds NaN or infinity{_more(broken)}; it cannot be quantized"
        )
    with torch.no_grad():
        for name, tensor in own.items():
            if name in loaded:
                tensor.copy_(loaded[name])


def _strip_prefix(loaded: dict[str, Tensor], known: set[str]) -> dict[str, Tensor]:
    """Drop the prefixes that wrappers (DataParallel, compile, Lightning) put before every name, if names fit then."""
    best = loaded
    while prefix := _common_prefix(loaded):
        loaded = {name.removeprefix(prefix): tensor for name, tensor in loaded.items()}
        if len(known & set(loaded)) > len(known & set(best)):
            best = loaded
    return best


def _common_prefix(names: Iterable[str]) -> str:
    """The first part of all names with its dot; empty where they differ, or where a name has no other part."""
    first = {name.partition(".")[::2] for name in names}
    heads = {head for head, _ in first}
    return f"{heads.pop()}." if len(heads) == 1 and all(rest for _, rest in first) else ""


def _aliases(module: nn.Module) -> Iterable[list[str]]:
    """Names that share one tensor (tied weights)."""
    names: dict[int, list[str]] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    return [group for group in names.values() if len(group) > 1]


def _harmless(loaded: Mapping[str, Tensor]) -> set[str]:
    """Buffers that older versions of libraries stored and newer ones compute."""
    endings = (
        "num_batches_tracked",
        "position_ids",
        "rotary_emb.inv_freq",
        "relative_position_index",
        "attn_mask",
    )
    return {name for name in loaded if name.endswith(endings)}


def _complain(path: Path, verb: str, names: list[str], hint: str) -> None:
    if names:
        raise UserError(f"--weights {path}: {verb} {names[0]}{_more(names)}; {hint}")


def _more(names: list[str]) -> str:
    return f" (and {len(names) - 1} more)" if len(names) > 1 else ""
