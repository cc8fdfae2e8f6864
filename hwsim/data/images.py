"""Images from a folder or a zip, prepared the way timm evaluates.

Labels come from `labels.csv` (file,label), or from class folders in sorted order (ImageNet's layout), or are
absent. Preparation: resize the short side to size / crop_pct, centre crop, divide by 255, subtract the mean,
divide by the deviation. Images that were already prepared (short side within 15 % above the crop) are only
cropped: resizing them again would blur what was cropped before.
"""

import csv
import io
import itertools
import math
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hwsim.data.dataset import DataRecord, Dataset, InputForm, Sample, sha256_of_parts
from hwsim.errors import UserError

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm"}
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

    @classmethod
    def of(cls, form: InputForm) -> "ImageForm":
        """Read timm's data config; ImageNet's usual values where it is silent."""
        config: dict[str, Any] = form.data_config
        shape = tuple(form.examples[0].shape)
        if len(shape) != 4:
            raise UserError(
                f"images were given, but the model's input has the shape {shape}; pass other data"
            )
        return cls(
            height=shape[2],
            width=shape[3],
            mean=tuple(config.get("mean") or (0.485, 0.456, 0.406)),
            std=tuple(config.get("std") or (0.229, 0.224, 0.225)),
            crop_pct=float(config.get("crop_pct") or 0.875),
            interpolation=str(config.get("interpolation") or "bicubic"),
        )

    def __str__(self) -> str:
        return (
            f"short side {self._short_side()} ({self.interpolation}) unless already prepared, "
            f"centre crop {self.height}x{self.width}, mean {self.mean}, std {self.std}"
        )

    def _short_side(self) -> int:
        return math.floor(min(self.height, self.width) / self.crop_pct)

    def prepare(self, image: "Image") -> "Tensor":
        """One image as a normalised (3, H, W) tensor."""
        import numpy as np

        image = self._resized(image.convert("RGB"))
        left, top = (image.width - self.width) // 2, (image.height - self.height) // 2
        box = (left, top, left + self.width, top + self.height)
        return self.normalise(np.array(image.crop(box)))

    def normalise(self, pixels: Any) -> "Tensor":
        """uint8 (H, W, C) to float (C, H, W)."""
        import torch

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


def open_images(path: Path, form: InputForm, limit: int | None) -> Dataset:
    """Images of a folder or zip as a dataset."""
    shape = ImageForm.of(form)
    images = _list_zip(path) if path.is_file() else _list_folder(path)
    count = len(images.names) if limit is None else min(limit, len(images.names))
    if not count:
        raise UserError(f"{path}: no images ({', '.join(sorted(SUFFIXES))}) found")
    names = images.names[:count]
    digest = sha256_of_parts((name, images.read(name)) for name in names)
    record = DataRecord(str(path), "images", count, digest, images.labels is not None, str(shape))
    return Dataset(record, lambda: _samples(path, images, shape, count))


def _samples(path: Path, images: ImageList, shape: ImageForm, count: int) -> Iterator[Sample]:
    import torch
    from PIL import Image, UnidentifiedImageError

    labels = images.labels or itertools.repeat(None)
    for name, label in itertools.islice(zip(images.names, labels, strict=False), count):
        try:
            pixels = shape.prepare(Image.open(io.BytesIO(images.read(name))))
        except (UnidentifiedImageError, OSError) as error:
            raise UserError(f"{path}: {name} is not a readable image ({error})") from error
        yield (pixels,), None if label is None else torch.tensor(label)


def _list_zip(path: Path) -> ImageList:
    try:
        archive = zipfile.ZipFile(path)
    except (OSError, zipfile.BadZipFile) as error:
        raise UserError(f"{path}: not a readable zip file ({error})") from error
    names = [name for name in archive.namelist() if Path(name).suffix.lower() in SUFFIXES]
    table = archive.read("labels.csv").decode() if "labels.csv" in archive.namelist() else None
    return _with_labels(path, names, table, archive.read)


def _list_folder(path: Path) -> ImageList:
    found = sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES)
    names = [p.relative_to(path).as_posix() for p in found]
    table = path / "labels.csv"
    text = table.read_text(encoding="utf-8") if table.is_file() else None
    return _with_labels(path, names, text, lambda name: (path / name).read_bytes())


def _with_labels(path: Path, names: list[str], table: str | None, read: Callable[[str], bytes]) -> ImageList:
    """Labels from a table (its order rules), else from class folders, else none."""
    if table is not None:
        try:
            rows = [(row["file"], int(row["label"])) for row in csv.DictReader(io.StringIO(table))]
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{path}: labels.csv needs the columns file,label with whole numbers") from error
        missing = {name for name, _ in rows} - set(names)
        if missing:
            raise UserError(f"{path}: labels.csv names {sorted(missing)[0]}, which is not there")
        return ImageList(tuple(name for name, _ in rows), tuple(label for _, label in rows), read)
    classes = sorted({name.split("/")[0] for name in names if "/" in name})
    if len(classes) > 1 and all("/" in name for name in names):
        index = {name: number for number, name in enumerate(classes)}
        spread = _one_of_each_class_in_turn(names)
        return ImageList(tuple(spread), tuple(index[name.split("/")[0]] for name in spread), read)
    return ImageList(tuple(names), None, read)


def _one_of_each_class_in_turn(names: list[str]) -> list[str]:
    """First image of every class, then the second ones: a limit keeps the classes balanced."""
    by_class: dict[str, list[str]] = {}
    for name in names:
        by_class.setdefault(name.split("/")[0], []).append(name)
    rounds = itertools.zip_longest(*by_class.values())
    return [name for members in rounds for name in members if name is not None]
