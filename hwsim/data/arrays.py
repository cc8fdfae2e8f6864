"""Arrays from an .npz, read without unpickling.

Images: `x` uint8 (N, H, W, C) with `y` int labels. Ready inputs: one array per model input (`x`, or `x0`,
`x1`, ...), float or integer, optionally `y`. Token sequences: `ids` and `offsets` (sequence i is
ids[offsets[i]:offsets[i+1]]), handed to hwsim/data/text.py.
"""

import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hwsim.data.dataset import DataRecord, Dataset, InputForm, Sample, check_shape, sha256_of_file
from hwsim.data.images import ImageForm
from hwsim.data.text import token_dataset
from hwsim.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor


def open_arrays(path: Path, form: InputForm, limit: int | None) -> Dataset:
    """An .npz file as a dataset."""
    import numpy as np

    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays: dict[str, Any] = {name: archive[name] for name in archive.files}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise UserError(f"{path}: not a readable .npz of plain arrays ({error})") from error
    digest = sha256_of_file(path)
    if {"ids", "offsets"} <= arrays.keys():
        borders = arrays["offsets"]
        count = len(borders) - 1
        sequences = (
            arrays["ids"][borders[i] : borders[i + 1]].astype(np.int64).tolist() for i in range(count)
        )
        return token_dataset(list(sequences), form, limit, (str(path), digest))
    names = (
        ["x"] if "x" in arrays else sorted(name for name in arrays if name[:1] == "x" and name[1:].isdigit())
    )
    if not names or len({len(arrays[name]) for name in names}) != 1:
        raise UserError(f"{path}: needs arrays x (or x0, x1, ...) of equal length, or ids and offsets")
    count = len(arrays[names[0]]) if limit is None else min(limit, len(arrays[names[0]]))
    labelled = "y" in arrays
    if labelled and len(arrays["y"]) != len(arrays[names[0]]):
        raise UserError(f"{path}: y has {len(arrays['y'])} labels for {len(arrays[names[0]])} samples")
    pixels = arrays[names[0]].dtype == np.uint8 and arrays[names[0]].ndim == 4
    shape = ImageForm.of(form) if pixels else None
    how = "pixels / 255, " + str(shape) if shape else "taken as they are"
    record = DataRecord(str(path), "arrays", count, digest, labelled, how)
    columns = [arrays[name] for name in names]
    return Dataset(record, lambda: _samples(str(path), columns, arrays.get("y"), shape, form, count))


def _samples(
    where: str, columns: list[Any], labels: Any, shape: ImageForm | None, form: InputForm, count: int
) -> Iterator[Sample]:
    import torch
    from PIL import Image

    for index in range(count):
        inputs: tuple[Tensor, ...]
        if shape is not None:
            inputs = (shape.prepare(Image.fromarray(columns[0][index])),)
        else:
            inputs = tuple(
                torch.from_numpy(column[index]).to(example.dtype)
                for column, example in zip(columns, form.examples, strict=False)
            )
        check_shape(inputs, form, where)
        yield inputs, None if labels is None else torch.tensor(int(labels[index]))
