"""A module in memory as a ``.pt2`` file, which every verb takes as a model."""

import io
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hwsim import files
from hwsim.errors import UserError
from hwsim.model.export import export_program


def save_module(module: nn.Module, example_inputs: Any, path: Path) -> Path:
    """Export ``module`` on its example inputs; equal modules give equal bytes."""
    if not isinstance(module, nn.Module):  # pyright: ignore[reportUnnecessaryIsInstance]  # a caller without types
        raise UserError(f"model: {type(module).__name__} is neither a name nor a torch.nn.Module")
    if example_inputs is None:
        raise UserError(
            "example_inputs: a torch.nn.Module needs them, for example torch.zeros(1, 3, 224, 224)"
        )
    inputs: tuple[Any, ...] = (
        (example_inputs,) if isinstance(example_inputs, Tensor) else tuple(example_inputs)
    )
    training = module.training
    try:
        program = export_program(module, inputs, name=type(module).__name__)
    finally:
        module.train(training)
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    files.write_bytes(path, buffer.getvalue())
    return path
