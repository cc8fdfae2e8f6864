"""Data from the user's own code: `module.py:function` returns an iterable of samples.

Each sample is `inputs` or `(inputs, label)`; inputs are one array or tensor, or a tuple of them, without the
batch dimension and already prepared for the model. The function is called once for every pass over the data,
and has to return the same samples each time: the record describes those of the first call.
"""

import itertools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from hwsim.data.conversion import as_inputs, as_label
from hwsim.data.dataset import DataRecord, Dataset, InputForm, Sample, sha256_of_parts
from hwsim.errors import UserError
from hwsim.user_code import guarded, user_function

_END = object()
_MEND = "return the same samples on every call: a list, or a fresh iterator, random numbers from a fixed seed"


def open_callback(spec: str, form: InputForm, limit: int | None) -> Dataset:
    """Samples of `FILE.py:FUNCTION`; the sha256 covers the tensors that it returned."""
    path, _, name = spec.rpartition(":")
    function = user_function(Path(path), name, spec)
    seen: list[str] = []
    shapes: list[tuple[int, ...] | None] = []

    def parts() -> Iterator[tuple[str, bytes]]:
        for sample in _stream(function, form, limit, spec):
            found = list(_parts(sample))
            seen.append(sha256_of_parts(iter(found)))
            shapes.append(None if sample[1] is None else tuple(sample[1].shape))
            yield from found

    digest = sha256_of_parts(parts())
    if not seen:
        raise UserError(f"{spec}: returned no samples")
    _check_label_shapes(shapes, spec)
    record = DataRecord(spec, "function", len(seen), digest, None not in shapes, "by the function")
    return Dataset(record, lambda: _repeated(_stream(function, form, limit, spec), seen, spec))


def _stream(function: Callable[..., Any], form: InputForm, limit: int | None, spec: str) -> Iterator[Sample]:
    """Samples of one call. Each step into the user's code is guarded by itself, and none of ours between them."""
    with guarded(spec):
        items = _iterator(function(), spec)
    for _ in itertools.count() if limit is None else range(limit):
        with guarded(spec):
            item = next(items, _END)
        if item is _END:
            return
        yield _sample(item, form, spec)


def _iterator(made: Any, spec: str) -> Iterator[Any]:
    if not isinstance(made, str | bytes | Mapping):
        try:
            return iter(made)
        except TypeError:
            pass
    raise UserError(
        f"{spec}: returned a value of type {type(made).__name__}; return a list of samples or a generator"
    )


def _repeated(samples: Iterator[Sample], seen: list[str], spec: str) -> Iterator[Sample]:
    """The samples of a later call, which must be those of the first one."""
    count = 0
    for sample in samples:
        if count == len(seen):
            raise UserError(f"{spec}: returned more samples on its second call than {count}; {_MEND}")
        if sha256_of_parts(_parts(sample)) != seen[count]:
            raise UserError(f"{spec}: sample {count} was another one on its second call; {_MEND}")
        count += 1
        yield sample
    if count < len(seen):
        found = f"{count} of {len(seen)} samples" if count else "nothing"
        raise UserError(f"{spec}: returned {found} on its second call; {_MEND}")


def _parts(sample: Sample) -> Iterator[tuple[str, bytes]]:
    inputs, label = sample
    for tensor in (*inputs, *(() if label is None else (label,))):
        yield str(tuple(tensor.shape)), tensor.contiguous().numpy().tobytes()


def _sample(item: Any, form: InputForm, spec: str) -> Sample:
    inputs, label = item if isinstance(item, tuple) and len(item) == 2 else (item, None)
    takes = len(form.examples)
    # a list of numbers is an array, where it is no list of the inputs
    several = isinstance(inputs, tuple) or (isinstance(inputs, list) and (takes > 1 or len(inputs) == 1))
    given = tuple(inputs) if several else (inputs,)
    if len(given) != takes:
        raise UserError(
            f"{spec}: a sample holds {len(given)} inputs, but the model takes {takes}; give inputs or the tuple "
            "(inputs, label), several inputs as a tuple"
        )
    # cloned, as a generator may fill one array again and again
    tensors = tuple(tensor.clone() for tensor in as_inputs(given, form, spec))
    known = None if label is None else as_label(label, spec)
    return tensors, None if known is None else known.clone()


def _check_label_shapes(shapes: list[tuple[int, ...] | None], spec: str) -> None:
    known = sorted({shape for shape in shapes if shape is not None})
    if len(known) > 1:
        raise UserError(
            f"{spec}: labels have the shapes {known[0]} and {known[1]}; give all samples labels of one shape"
        )
