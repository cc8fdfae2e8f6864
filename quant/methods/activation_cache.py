"""Activations of a calibration: in memory up to a budget, in memory-mapped files beyond it.

A mapped tensor is an ordinary tensor whose pages the system may write out, so nothing else changes: results are
the same bit for bit. The file loses its name as soon as it is mapped; a killed run leaves nothing behind.
"""
# pyright: basic
# torch.from_file and storages are untyped in torch's stubs.

import tempfile
import weakref
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

BUDGET = 2 << 30
"""Bytes of activations held in memory before files are used (2 GiB)."""


class ActivationCache:
    """Counts the live tensors it was given and moves new ones to disk while they exceed the budget."""

    def __init__(self, budget: int = BUDGET, folder: Path | None = None) -> None:
        self.budget, self.folder = budget, folder
        self.live = 0
        """Bytes held in memory now."""
        self.mapped = 0
        """Bytes ever put on disk."""
        self._holders: dict[int, int] = {}

    def keep(self, tensor: Tensor) -> Tensor:
        """The tensor itself while there is room, else a copy of it on disk."""
        storage = tensor.untyped_storage()
        if self.live + storage.nbytes() > self.budget and storage.data_ptr() not in self._holders:
            return self._on_disk(tensor.shape, tensor.dtype).copy_(tensor)
        self._count(tensor)
        return tensor

    def empty(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """Room for a tensor to be filled in parts."""
        size = torch.Size(shape).numel() * dtype.itemsize
        if self.live + size > self.budget:
            return self._on_disk(shape, dtype)
        tensor = torch.empty(tuple(shape), dtype=dtype)
        self._count(tensor)
        return tensor

    def _count(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        address, size = storage.data_ptr(), storage.nbytes()
        if address not in self._holders:
            self.live += size
        self._holders[address] = self._holders.get(address, 0) + 1
        weakref.finalize(tensor, self._forget, address, size)

    def _forget(self, address: int, size: int) -> None:
        self._holders[address] -= 1
        if not self._holders[address]:
            del self._holders[address]
            self.live -= size

    def _on_disk(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        count = torch.Size(shape).numel()
        self.mapped += count * dtype.itemsize
        with tempfile.NamedTemporaryFile(dir=self.folder, prefix="activations") as file:
            file.truncate(max(count, 1) * dtype.itemsize)
            flat = torch.from_file(file.name, shared=True, size=count, dtype=dtype)
        return flat.reshape(tuple(shape))
