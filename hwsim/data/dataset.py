"""What every kind of data offers: samples, batches of the model's fixed size, and a record of what was read.

A sample is the model's inputs without the batch dimension and a label: a class index, one index per token
(`IGNORED` where nothing is scored), or nothing. The last batch is filled up by repeating its samples;
`Batch.valid` says how many count.
"""

import hashlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hwsim.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

IGNORED = -100
"""Label of a token that is not scored."""

Sample = tuple["tuple[Tensor, ...]", "Tensor | None"]


@dataclass(frozen=True)
class InputForm:
    """What the model takes: example inputs (with batch dimension) and the data config of `LoadedModel`.

    `tables` says for each input how many tokens the network knows, None where it takes no tokens.
    """

    examples: "tuple[Tensor, ...]"
    data_config: dict[str, Any]
    tables: tuple[int | None, ...] = ()

    @property
    def batch(self) -> int:
        """Samples per inference."""
        return int(self.examples[0].shape[0])

    @property
    def vocabulary(self) -> int | None:
        """Tokens that a language model knows: of its first input, and by its configuration."""
        named = self.data_config.get("vocab_size")
        known = [*self.tables[:1], None if named is None else int(named)]
        return min((size for size in known if size is not None), default=None)


@dataclass(frozen=True)
class DataRecord:
    """What was read, for plans and reports: count and sha256 of the samples used."""

    source: str
    kind: str
    count: int
    sha256: str
    labelled: bool
    preprocessing: str


@dataclass(frozen=True)
class Batch:
    """Inputs of one inference; only the first `valid` samples count."""

    inputs: "tuple[Tensor, ...]"
    labels: "Tensor | None"
    valid: int


@dataclass(frozen=True)
class Dataset:
    """Samples that can be read repeatedly, always in the same order."""

    record: DataRecord
    samples: Callable[[], Iterator[Sample]]

    def batches(self, size: int) -> Iterator[Batch]:
        """Samples stacked to batches of exactly `size`."""
        import torch

        stream = self.samples()
        while chunk := list(itertools.islice(stream, size)):
            valid = len(chunk)
            chunk = list(itertools.islice(itertools.cycle(chunk), size))
            inputs = tuple(torch.stack(parts) for parts in zip(*(sample[0] for sample in chunk), strict=True))
            labels = [sample[1] for sample in chunk]
            known = [label for label in labels if label is not None]
            yield Batch(inputs, torch.stack(known) if len(known) == size else None, valid)


def taken(count: int, limit: int | None, labels: Sequence[int] | None) -> Sequence[int]:
    """Which samples a limit leaves: the first ones, or, where they stand sorted by class, some of every part."""
    if limit is None or limit >= count:
        return range(count)
    if labels is None or labels[0] == labels[-1] or any(a > b for a, b in itertools.pairwise(labels)):
        return range(limit)
    return [index * count // limit for index in range(limit)]


def sha256_of_file(path: Path) -> str:
    """sha256 of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sha256_of_parts(parts: Iterator[tuple[str, bytes]]) -> str:
    """sha256 over named byte strings, in their order."""
    total = hashlib.sha256()
    for name, data in parts:
        total.update(f"{name}\0{len(data)}\0".encode())
        total.update(data)
    return total.hexdigest()


def check_shapes(inputs: "Sequence[Tensor]", form: InputForm, where: str) -> None:
    """Raise unless the inputs of a sample are as large as the model's."""
    found = [tuple(tensor.shape) for tensor in inputs]
    wanted = [tuple(example.shape[1:]) for example in form.examples]
    if found != wanted:
        raise UserError(f"{where}: samples have the shapes {found}, but the model takes {wanted}")


def check_sample(inputs: "tuple[Tensor, ...]", form: InputForm, where: str) -> None:
    """Raise unless a sample fits the model and holds numbers."""
    check_shapes(inputs, form, where)
    if not all(bool(tensor.isfinite().all()) for tensor in inputs):
        raise UserError(f"{where}: a sample holds NaN or infinity; leave it out or mend it")
    for tensor, size in zip(inputs, form.tables, strict=False):
        if size is not None and tensor.numel():
            check_tokens(int(tensor.min()), int(tensor.max()), size, where)


def check_tokens(lowest: int, largest: int, vocabulary: int | None, where: str) -> None:
    """Raise unless tokens are numbers of what the network knows."""
    if vocabulary is None:
        if lowest < 0:
            raise UserError(
                f"{where}: token {lowest} is negative; tokens count from 0, so make the data again"
            )
    elif lowest < 0 or largest >= vocabulary:
        raise UserError(
            f"{where}: token {lowest if lowest < 0 else largest} is outside the model's {vocabulary}; pass the "
            "model's own tokenizer, or data made with it"
        )
