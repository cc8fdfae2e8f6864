"""Colours of one image: channels, depth and statistics, for the networks in torch and for the compiled ones alike."""

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image


def in_colours(image: "Image", channels: int) -> "Image":
    """The image with one or three channels of 8 bits: of 16 bits the upper ones, where Pillow alone would clip."""
    if image.mode.startswith("I"):
        from PIL import Image as images

        levels = np.asarray(image)
        if image.mode != "I" or levels.max() > 255:  # older versions of Pillow read 16 bits as 32
            image = images.fromarray((levels >> 8).clip(0, 255).astype(np.uint8))
    return image.convert("L" if channels == 1 else "RGB")


def colour_statistics(config: dict[str, Any], channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation of each channel, ImageNet's where none are given; the mean of three for a grey image."""
    found: list[tuple[float, ...]] = []
    for name, usual in (("mean", (0.485, 0.456, 0.406)), ("std", (0.229, 0.224, 0.225))):
        values = tuple(float(value) for value in config.get(name) or usual)
        found.append(values if len(values) == channels else (sum(values) / len(values),) * channels)
    return found[0], found[1]


def image_fault(error: Exception) -> str:
    """Why Pillow could not read an image, without the address of the object it read from."""
    return (
        "not an image that Pillow knows" if type(error).__name__ == "UnidentifiedImageError" else str(error)
    )
