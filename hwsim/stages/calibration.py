"""Calibration inputs of a loaded model, from whatever data the user names."""

from pathlib import Path
from typing import TYPE_CHECKING

from hwsim.data.dataset import DataRecord, InputForm
from hwsim.data.open import open_data

if TYPE_CHECKING:
    from torch import Tensor

    from hwsim.model.load import LoadedModel

DEFAULT_SAMPLES = 64


def calibration_data(
    spec: str, model: "LoadedModel", *, samples: int = DEFAULT_SAMPLES, tokenizer: Path | None = None
) -> "tuple[list[tuple[Tensor, ...]], DataRecord]":
    """Whole batches of at most `samples` calibration samples, and the record of what was read."""
    form = InputForm(model.example_inputs, model.data_config)
    dataset = open_data(spec, form, limit=max(samples, form.batch), tokenizer=tokenizer)
    return [batch.inputs for batch in dataset.batches(form.batch)], dataset.record
