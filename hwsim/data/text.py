"""Text for language models: documents become token sequences, sequences become fixed windows.

Each sequence is cut into windows of the model's length (`split`), or, where sequences are documents of their
own (an .npz of stories), each is cut at that length and padded on the right; padding follows the scored tokens,
so a causal model never sees it. The label of a position is the next token.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hwsim.data.dataset import (
    IGNORED,
    DataRecord,
    Dataset,
    InputForm,
    Sample,
    check_tokens,
    sha256_of_file,
)
from hwsim.data.tokenizer import load_tokenizer
from hwsim.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

DOCUMENT_END = "<|endoftext|>"


def open_text(path: Path, form: InputForm, limit: int | None, tokenizer: Path | None) -> Dataset:
    """A text file as windows of tokens; documents end at `<|endoftext|>`."""
    folder = form.data_config.get("folder")
    where = tokenizer or (Path(str(folder)) if folder else None)
    if where is None:
        raise UserError(f"{path}: this model brings no tokenizer; pass one with --tokenizer")
    encode = load_tokenizer(where)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not a readable UTF-8 text ({error})") from error
    length = _length(form)
    windows: list[list[int]] = []
    for document in text.split(DOCUMENT_END):
        if limit is not None and len(windows) >= limit:
            break
        if document.strip():
            tokens = encode(document.strip())
            windows += [tokens[i : i + length] for i in range(0, len(tokens), length)]
    whole = [window for window in windows if len(window) == length] or windows
    return token_dataset(whole, form, limit, (str(path), sha256_of_file(path)))


def token_dataset(
    sequences: Sequence[Sequence[int]], form: InputForm, limit: int | None, source: tuple[str, str]
) -> Dataset:
    """Token sequences, each cut at the model's length; `source` is (name, sha256)."""
    length = _length(form)
    usable = [sequence[:length] for sequence in sequences if len(sequence) > 1][:limit]
    if not usable:
        raise UserError(f"{source[0]}: no sequence of two tokens or more")
    check_tokens(min(map(min, usable)), max(map(max, usable)), form.vocabulary, source[0])
    how = f"sequences cut at {length} tokens, next-token labels"
    record = DataRecord(source[0], "text", len(usable), source[1], True, how)
    return Dataset(record, lambda: _samples(usable, form, length))


def _length(form: InputForm) -> int:
    shape = tuple(form.examples[0].shape)
    if len(shape) != 2 or form.examples[0].is_floating_point():
        raise UserError(f"text was given, but the model's input has the shape {shape}; pass other data")
    return shape[1]


def _samples(sequences: Sequence[Sequence[int]], form: InputForm, length: int) -> Iterator[Sample]:
    import torch

    for sequence in sequences:
        tokens = torch.zeros(length, dtype=form.examples[0].dtype)
        tokens[: len(sequence)] = torch.tensor(sequence, dtype=tokens.dtype)
        labels = torch.full((length,), IGNORED, dtype=torch.int64)
        labels[: len(sequence) - 1] = tokens[1 : len(sequence)].to(torch.int64)
        yield (tokens, *_others(form, len(sequence))), labels


def _others(form: InputForm, used: int) -> "tuple[Tensor, ...]":
    """Further inputs: masks say which tokens are real, everything else keeps its example."""
    import torch

    others: list[Tensor] = []
    for example in form.examples[1:]:
        single = example[0].clone()
        if single.shape == form.examples[0].shape[1:] and torch.all(single == 1):
            single[used:] = 0
        others.append(single)
    return tuple(others)
