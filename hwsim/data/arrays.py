"""Arrays from an .npz, read without unpickling.

Images: `x` uint8 (N, H, W, C), or with the channels first, or grey (N, H, W), with `y` int labels. Ready
inputs: one array per model input (`x`, or `x0`, `x1`, ...), float or integer, optionally `y`. Token sequences:
`ids` and `offsets` (sequence i is ids[offsets[i]:offsets[i+1]]), handed to hwsim/data/text.py.
"""

import itertools
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hwsim.data.conversion import as_inputs, tell_no_class
from hwsim.data.dataset import DataRecord, Dataset, InputForm, Sample, check_sample, sha256_of_file, taken
from hwsim.data.images import ImageForm
from hwsim.data.text import token_dataset
from hwsim.errors import UserError


def open_arrays(path: Path, form: InputForm, limit: int | None) -> Dataset:
    """An .npz file as a dataset."""
    arrays = _read(path)
    digest = sha256_of_file(path)
    if {"ids", "offsets"} <= arrays.keys():
        return token_dataset(_sequences(path, arrays), form, limit, (str(path), digest))
    columns = _columns(path, arrays, len(form.examples))
    labels = _labels(path, arrays["y"], len(columns[0])) if "y" in arrays else None
    classes = None if labels is None or labels.size != len(labels) else labels.reshape(-1).tolist()
    indices = taken(len(columns[0]), limit, classes)
    pictures = _pictures(columns[0], form)
    shape = None if pictures is None else ImageForm.of(form)
    how = "pixels / 255, " + str(shape) if shape else "taken as they are"
    record = DataRecord(str(path), "arrays", len(indices), digest, labels is not None, how)
    if pictures is not None:
        columns = [pictures]
    return Dataset(record, lambda: _samples(str(path), columns, labels, shape, form, indices))


def _columns(path: Path, arrays: dict[str, Any], takes: int) -> list[Any]:
    """The arrays of the model's inputs, each with something in it for every sample."""
    several = sorted((name for name in arrays if name[:1] == "x" and name[1:].isdecimal()), key=_place)
    names = ["x"] if "x" in arrays else several
    columns = [_numbers(path, name, arrays[name]) for name in names]
    if not names or len({len(column) for column in columns}) != 1:
        found = ", ".join(f"{name} {array.shape}" for name, array in arrays.items()) or "nothing"
        raise UserError(
            f"{path}: needs arrays x (or x0, x1, ...) of equal length, or ids and offsets; holds {found}"
        )
    if len(names) != takes:
        wanted = "x" if takes == 1 else ", ".join(f"x{index}" for index in range(takes))
        raise UserError(f"{path}: holds {', '.join(names)}, but the model takes {wanted}; write those arrays")
    empty = next((name for name, column in zip(names, columns, strict=True) if not column.size), None)
    if empty is not None:
        raise UserError(f"{path}: {empty} of shape {arrays[empty].shape} holds no sample")
    return columns


def _place(name: str) -> int:
    """The place of x0, x1, ..., x10 among the inputs."""
    return int(name[1:])


def _read(path: Path) -> dict[str, Any]:
    import numpy as np

    if not zipfile.is_zipfile(path):
        raise UserError(f"{path}: not an .npz; write one with numpy.savez(path, x=..., y=...)")
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays: dict[str, Any] = {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"{path}: not a readable .npz of plain arrays ({error})") from error
    odd = next((name for name, array in arrays.items() if not isinstance(array, np.ndarray)), None)
    if odd is not None:  # numpy hands out the bytes of a member that is none of its own
        raise UserError(
            f"{path}: its member {odd} is no array; write one with numpy.savez(path, x=..., y=...)"
        )
    return arrays


def _sequences(path: Path, arrays: dict[str, Any]) -> list[list[int]]:
    ids, borders = arrays["ids"], arrays["offsets"]
    if ids.ndim != 1 or borders.ndim != 1 or ids.dtype.kind not in "iu" or borders.dtype.kind not in "iu":
        raise UserError(f"{path}: ids and offsets must be rows of whole numbers")
    ends: list[int] = borders.tolist()
    if ends and (ends[0] < 0 or ends[-1] > len(ids) or any(a > b for a, b in itertools.pairwise(ends))):
        raise UserError(
            f"{path}: offsets must rise within 0 and {len(ids)}, the number of ids; make the file again"
        )
    return [ids[start:end].astype("int64").tolist() for start, end in itertools.pairwise(ends)]


def _numbers(path: Path, name: str, array: Any) -> Any:
    """The array in this machine's byte order; what is no row of numbers is refused."""
    if array.dtype.kind not in "biuf" or array.ndim == 0:
        raise UserError(
            f"{path}: {name} is {array.dtype} of shape {array.shape}; give an array of real numbers whose first "
            "axis counts the samples"
        )
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def _labels(path: Path, array: Any, count: int) -> Any:
    """Whole numbers, one or more for each sample; None for what is no class."""
    labels = _numbers(path, "y", array)
    if len(labels) != count:
        raise UserError(f"{path}: y has {len(labels)} labels for {count} samples")
    whole = labels.astype("int64")
    if (whole == labels).all():
        return whole
    tell_no_class(f"{path}, y")
    return None


def _pictures(array: Any, form: InputForm) -> Any:
    """The array as (N, H, W, C) or (N, H, W) pictures, whichever axis the channels stand on; None if it holds none."""
    example = form.examples[0]
    if array.dtype.name != "uint8" or not example.is_floating_point() or example.ndim != 4:
        return None
    if array.ndim == 3 and example.shape[1] == 1:
        return array
    if array.ndim != 4:
        return None
    if array.shape[3] in (1, 3, 4):
        return array[..., 0] if array.shape[3] == 1 else array
    if array.shape[1] in (1, 3):
        return array[:, 0] if array.shape[1] == 1 else array.transpose(0, 2, 3, 1)
    return None


def _samples(
    where: str,
    columns: list[Any],
    labels: Any,
    shape: ImageForm | None,
    form: InputForm,
    indices: Sequence[int],
) -> Iterator[Sample]:
    import numpy as np
    import torch
    from PIL import Image

    for index in indices:
        if shape is not None:
            inputs = (shape.prepare(Image.fromarray(np.ascontiguousarray(columns[0][index]))),)
            check_sample(inputs, form, where)
        else:
            inputs = as_inputs([column[index] for column in columns], form, where)
        yield inputs, None if labels is None else torch.as_tensor(labels[index])
