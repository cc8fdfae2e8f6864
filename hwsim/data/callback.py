"""Data from the user's own code: `module.py:function` returns an iterable of samples.

Each sample is `inputs` or `(inputs, label)`; inputs are one array or tensor, or a tuple of them, without the
batch dimension and already prepared for the model. The function is called once for every pass over the data.
"""

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from hwsim.data.dataset import DataRecord, Dataset, InputForm, Sample, check_sample, sha256_of_parts
from hwsim.errors import UserError
from hwsim.user_code import guarded, user_function


def open_callback(spec: str, form: InputForm, limit: int | None) -> Dataset:
    """Samples of `FILE.py:FUNCTION`; the sha256 covers the tensors that it returned."""
    path, _, name = spec.rpartition(":")
    function = user_function(Path(path), name, spec)
    count, labelled = 0, True

    def stream() -> Iterator[Sample]:
        made: Iterable[Any] = function()
        return (_sample(item, form, spec) for item in islice(made, limit))

    def parts() -> Iterator[tuple[str, bytes]]:
        nonlocal count, labelled
        for inputs, label in stream():
            count += 1
            labelled = labelled and label is not None
            for tensor in (*inputs, *(() if label is None else (label,))):
                yield str(tuple(tensor.shape)), tensor.contiguous().numpy().tobytes()

    with guarded(spec):
        digest = sha256_of_parts(parts())
    if not count:
        raise UserError(f"{spec}: returned no samples")
    return Dataset(DataRecord(spec, "function", count, digest, labelled, "by the function"), stream)


def _sample(item: Any, form: InputForm, spec: str) -> Sample:
    import torch

    inputs, label = item if isinstance(item, tuple) and len(item) == 2 else (item, None)
    given = inputs if isinstance(inputs, tuple | list) else (inputs,)
    tensors = tuple(
        torch.as_tensor(value).to(example.dtype) for value, example in zip(given, form.examples, strict=False)
    )
    check_sample(tensors, form, spec)
    return tensors, None if label is None else torch.as_tensor(label).to(torch.int64)
