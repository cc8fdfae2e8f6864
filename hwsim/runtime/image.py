"""One image file as the model's input, prepared as `hwsim.data.images` does, without torch.

Short side to size / crop_pct (only cropped when within 15 % above the crop), centre crop, then
(pixel / 255 - mean) / std. Pillow is needed here and only here.
"""

import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hwsim.colours import colour_statistics, image_fault, in_colours
from hwsim.errors import UserError

_PREPARED_SLACK = 1.15


def read_image(path: Path, shape: tuple[int, ...], config: dict[str, Any]) -> NDArray[np.float32]:
    """The image as a float32 array of ``shape`` (1, 3 or 1, H, W)."""
    if len(shape) != 4 or shape[0] != 1 or shape[1] not in (1, 3):
        raise UserError(f"{path}: the model takes an input of shape {shape}, not one image; pass an .npz")
    try:
        from PIL import Image
    except ImportError as error:
        raise UserError("reading images needs Pillow: pip install pillow, or pass an .npz") from error
    height, width = shape[2:]
    try:
        with Image.open(path) as opened:
            image = in_colours(opened, shape[1])
    except Exception as error:  # Pillow's readers raise whatever a broken file makes them stumble over
        raise UserError(f"{path}: not a readable image ({image_fault(error)})") from error
    short = min(image.size)
    fits = image.width >= width and image.height >= height
    if not (fits and short <= _PREPARED_SLACK * min(height, width)):
        wanted = math.floor(min(height, width) / float(config.get("crop_pct") or 0.875))
        size = (
            max(width, round(image.width * wanted / short)),
            max(height, round(image.height * wanted / short)),
        )
        methods = {"bilinear": Image.Resampling.BILINEAR, "nearest": Image.Resampling.NEAREST}
        method = methods.get(str(config.get("interpolation")), Image.Resampling.BICUBIC)
        image = image.resize(size, method)
    left, top = (image.width - width) // 2, (image.height - height) // 2
    pixels = np.asarray(image.crop((left, top, left + width, top + height)), np.float32) / np.float32(255)
    mean, std = (np.array(values, np.float32) for values in colour_statistics(config, shape[1]))
    pixels = pixels.reshape(height, width, shape[1])
    return np.ascontiguousarray(((pixels - mean) / std).transpose(2, 0, 1)[None])
