"""Images from a folder or a zip, prepared the way timm evaluates.

Labels come from `labels.csv` (file,label), or from class folders in sorted order (ImageNet's layout), or are
absent; a single folder around all of it counts for nothing, as do hidden files and what macOS adds to a zip.
Preparation: resize the short side to size / crop_pct, centre crop, divide by 255, subtract the mean,
divide by the deviation. Images that were already prepared (short side within 15 % above the crop) are only
cropped: resizing them again would blur what was cropped before.
"""

import csv
import io
import itertools
import math
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hwsim.colours import colour_statistics, image_fault, in_colours
from hwsim.data.dataset import DataRecord, Dataset, InputForm, Sample, sha256_of_parts, taken
from hwsim.errors import UserError, first_line

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".gif", ".tif", ".tiff"}
TABLE = "labels.csv"
PREPARED_SLACK = 1.15


@dataclass(frozen=True)
class ImageForm:
    """Size and normalisation of the images a model takes."""

    height: int
    width: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop_pct: float
    interpolation: str
    channels: int = 3

    @classmethod
    def of(cls, form: InputForm) -> "ImageForm":
        """Read timm's data config; ImageNet's usual values where it is silent."""
        config: dict[str, Any] = form.data_config
        shape = tuple(form.examples[0].shape)
        if len(shape) != 4 or shape[1] not in (1, 3):
            raise UserError(
                f"images were given, but the model's input has the shape {shape}; pass other data"
            )
        mean, std = colour_statistics(config, shape[1])
        return cls(
            height=shape[2],
            width=shape[3],
            mean=mean,
            std=std,
            crop_pct=float(config.get("crop_pct") or 0.875),
            interpolation=str(config.get("interpolation") or "bicubic"),
            channels=shape[1],
        )

    def __str__(self) -> str:
        return (
            f"short side {self._short_side()} ({self.interpolation}) unless already prepared, "
            f"centre crop {self.height}x{self.width}, mean {self.mean}, std {self.std}"
        )

    def _short_side(self) -> int:
        return math.floor(min(self.height, self.width) / self.crop_pct)

    def prepare(self, image: "Image") -> "Tensor":
        """One image as a normalised (3, H, W) tensor, (1, H, W) for a network that sees grey."""
        import numpy as np

        image = self._resized(in_colours(image, self.channels))
        left, top = (image.width - self.width) // 2, (image.height - self.height) // 2
        box = (left, top, left + self.width, top + self.height)
        return self.normalise(np.array(image.crop(box)))

    def normalise(self, pixels: Any) -> "Tensor":
        """uint8 (H, W, C), of grey ones (H, W), to float (C, H, W)."""
        import torch

        pixels = pixels.reshape(*pixels.shape[:2], self.channels)
        value = torch.from_numpy(pixels).permute(2, 0, 1).to(torch.float32) / 255
        mean, std = torch.tensor(self.mean), torch.tensor(self.std)
        return (value - mean[:, None, None]) / std[:, None, None]

    def _resized(self, image: "Image") -> "Image":
        from PIL.Image import Resampling

        short = min(image.size)
        fits = image.width >= self.width and image.height >= self.height
        if fits and short <= PREPARED_SLACK * min(self.height, self.width):
            return image
        scale = self._short_side() / short
        size = (max(self.width, round(image.width * scale)), max(self.height, round(image.height * scale)))
        method = {"bilinear": Resampling.BILINEAR, "nearest": Resampling.NEAREST}
        return image.resize(size, method.get(self.interpolation, Resampling.BICUBIC))


@dataclass(frozen=True)
class ImageList:
    """Names and labels of images, and how to read one."""

    names: tuple[str, ...]
    labels: tuple[int, ...] | None
    read: Callable[[str], bytes]

    def only(self, indices: Sequence[int]) -> "ImageList":
        """Some of them, in the order given."""
        labels = None if self.labels is None else tuple(self.labels[index] for index in indices)
        return ImageList(tuple(self.names[index] for index in indices), labels, self.read)


def open_images(path: Path, form: InputForm, limit: int | None) -> Dataset:
    """Images of a folder or zip as a dataset."""
    shape = ImageForm.of(form)
    images = _list_zip(path) if path.is_file() else _list_folder(path)
    if not images.names:
        raise UserError(f"{path}: no images ({', '.join(sorted(SUFFIXES))}) found")
    used = images.only(taken(len(images.names), limit, images.labels))
    digest = sha256_of_parts((name, used.read(name)) for name in used.names)
    record = DataRecord(str(path), "images", len(used.names), digest, used.labels is not None, str(shape))
    return Dataset(record, lambda: _samples(path, used, shape))


def _samples(path: Path, images: ImageList, shape: ImageForm) -> Iterator[Sample]:
    import torch
    from PIL import Image

    labels = images.labels or itertools.repeat(None)
    for name, label in zip(images.names, labels, strict=False):
        try:
            image = Image.open(io.BytesIO(images.read(name)))  # of several frames the first
            if image.mode == "F":
                raise UserError(f"{path}: {name} holds fractions, no pixels; pass such data as an .npz")
            pixels = shape.prepare(image)
        except UserError:
            raise
        except Exception as error:  # Pillow's readers raise whatever a broken file makes them stumble over
            raise UserError(f"{path}: {name} is not a readable image ({image_fault(error)})") from error
        yield (pixels,), None if label is None else torch.tensor(label)


def _list_zip(path: Path) -> ImageList:
    try:
        archive = zipfile.ZipFile(path)
    except (OSError, zipfile.BadZipFile) as error:
        raise UserError(f"{path}: not a readable zip file ({error})") from error

    def read(name: str) -> bytes:
        try:
            return archive.read(name)
        except (RuntimeError, OSError, zipfile.BadZipFile, zlib.error) as error:  # locked, or damaged
            raise UserError(f"{path}: cannot read {name} ({first_line(error)})") from error

    return _with_labels(path, archive.namelist(), read)


def _list_folder(path: Path) -> ImageList:
    names = [found.relative_to(path).as_posix() for found in sorted(path.rglob("*")) if found.is_file()]
    return _with_labels(path, names, lambda name: (path / name).read_bytes())


def _with_labels(path: Path, files: list[str], read: Callable[[str], bytes]) -> ImageList:
    """Labels from a table (its order rules), else from class folders, else none."""
    names = [name for name in files if Path(name).suffix.lower() in SUFFIXES and not _is_hidden(name)]
    top = _common_folder(names)
    lone = (
        f"{names[0].removeprefix(top).partition('/')[0]}/" if names and all("/" in n for n in names) else ""
    )
    table = next((place for place in (TABLE, top + TABLE, top + lone + TABLE) if place in files), None)
    if table is not None:
        return _from_table(path, names, table.removesuffix(TABLE), read(table), read)
    inner = [name.removeprefix(top) for name in names]
    classes = sorted({name.split("/")[0] for name in inner if "/" in name})
    if len(classes) > 1 and all("/" in name for name in inner):
        index = {name: number for number, name in enumerate(classes)}
        spread = _one_of_each_class_in_turn(inner)
        labels = tuple(index[name.split("/")[0]] for name in spread)
        return ImageList(tuple(top + name for name in spread), labels, read)
    return ImageList(tuple(names), None, read)


def _is_hidden(name: str) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in name.split("/"))


def _common_folder(names: list[str]) -> str:
    """The folders around all images, as in `val/cat/1.jpg` and `val/dog/1.jpg`; a lone class is not one of them."""
    top = ""
    while True:
        inner = {name.removeprefix(top).partition("/")[::2] for name in names}
        if len({first for first, _ in inner}) != 1 or not all("/" in rest for _, rest in inner):
            return top
        top += next(iter(inner))[0] + "/"


def _from_table(
    path: Path, names: list[str], folder: str, table: bytes, read: Callable[[str], bytes]
) -> ImageList:
    try:
        rows = csv.DictReader(io.StringIO(table.decode("utf-8-sig")))
        labelled = [(folder + row["file"], int(row["label"])) for row in rows]
    except (KeyError, TypeError, ValueError) as error:  # also what is not UTF-8
        raise UserError(
            f"{path}: {TABLE} needs the columns file,label with whole numbers, in UTF-8"
        ) from error
    if not labelled:
        raise UserError(f"{path}: {TABLE} names no image; write a line file,label for each")
    missing = {name for name, _ in labelled} - set(names)
    if missing:
        raise UserError(
            f"{path}: {TABLE} names {sorted(missing)[0].removeprefix(folder)}, which is not there"
        )
    return ImageList(tuple(name for name, _ in labelled), tuple(label for _, label in labelled), read)


def _one_of_each_class_in_turn(names: list[str]) -> list[str]:
    """First image of every class, then the second ones: a limit keeps the classes balanced."""
    by_class: dict[str, list[str]] = {}
    for name in names:
        by_class.setdefault(name.split("/")[0], []).append(name)
    rounds = itertools.zip_longest(*by_class.values())
    return [name for members in rounds for name in members if name is not None]
