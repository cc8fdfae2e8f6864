"""Calibration inputs of a loaded model, from whatever data the user names."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from hwsim.data.dataset import DataRecord, Dataset, InputForm
from hwsim.data.open import open_data

if TYPE_CHECKING:
    from torch import Tensor

    from hwsim.model.load import LoadedModel

DEFAULT_SAMPLES = 64


def input_form(model: "LoadedModel") -> InputForm:
    """What data for a loaded model has to look like."""
    from hwsim.model.vocabulary import vocabularies

    return InputForm(model.example_inputs, model.data_config, vocabularies(model.module))


def calibration_data(
    spec: str, model: "LoadedModel", *, samples: int = DEFAULT_SAMPLES, tokenizer: Path | None = None
) -> "tuple[list[tuple[Tensor, ...]], DataRecord]":
    """Whole batches of at most `samples` calibration samples, and the record of what was read and is used.

    In a seeded random order: samples often come sorted, and whoever holds out the last batches must not hold out
    the last classes.
    """
    import torch

    form = input_form(model)
    dataset = open_data(spec, form, limit=max(samples, form.batch), tokenizer=tokenizer)
    found = list(dataset.samples())
    order = torch.randperm(len(found), generator=torch.Generator().manual_seed(0)).tolist()
    shuffled = Dataset(dataset.record, lambda: iter([found[index] for index in order]))
    batches = list(shuffled.batches(form.batch))
    if len(batches) > 2 and batches[-1].valid < form.batch:
        batches.pop()  # copies of a few samples would weigh as much as a whole batch, or be all that is held out
    used = sum(batch.valid for batch in batches)
    return [batch.inputs for batch in batches], replace(dataset.record, count=used)
