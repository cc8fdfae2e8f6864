"""A module in memory as a ``.pt2`` file, which every verb takes as a model."""

import io
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hwsim import files
from hwsim.errors import UserError
from hwsim.model.export import export_program
from hwsim.model.inputs import arguments, materialise


def save_module(module: nn.Module, example_inputs: Any, path: Path) -> Path:
    """Export ``module`` on its example inputs; equal modules give equal bytes."""
    if not isinstance(module, nn.Module):  # pyright: ignore[reportUnnecessaryIsInstance]  # a caller without types
        raise UserError(f"model: {type(module).__name__} is neither a name nor a torch.nn.Module")
    if example_inputs is None:
        raise UserError(
            "example_inputs: a torch.nn.Module needs them, for example torch.zeros(1, 3, 224, 224)"
        )
    args, kwargs = arguments(example_inputs)
    materialise(module, args, kwargs)
    training = module.training
    try:
        program = export_program(module, args, kwargs, name=type(module).__name__)
    finally:
        module.train(training)
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    files.write_bytes(path, buffer.getvalue())
    return path
