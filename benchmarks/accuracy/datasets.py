"""Images and text of the evidence tables, read as ``shared/data/README.md`` says, and how they are scored."""

import io
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"


@dataclass(frozen=True)
class Samples:
    """Inputs and labels (next-token targets for text, -1 where nothing is scored)."""

    inputs: Tensor
    labels: Tensor

    def batches(self, size: int) -> list[tuple[Tensor]]:
        """Whole batches of one size; a ragged tail is filled up by the caller (`Samples.take`)."""
        whole = len(self.inputs) // size * size
        return [(self.inputs[start : start + size],) for start in range(0, whole, size)]

    def take(self, count: int, seed: int = 0) -> "Samples":
        """A seeded random subset."""
        pick = torch.from_numpy(np.random.default_rng(seed).permutation(len(self.inputs))[:count].copy())
        return Samples(self.inputs[pick], self.labels[pick])


def imagenet(name: str, count: int | None = None, seed: int = 0) -> Samples:
    """``calib_1000`` or ``val_a650``: centre crop 224, mean and std 0.5."""
    from PIL import Image

    with zipfile.ZipFile(SHARED / "images" / f"imagenet_{name}.zip") as archive:
        rows = [line.split(",") for line in archive.read("labels.csv").decode().split()[1:]]
        order = np.random.default_rng(seed).permutation(len(rows)) if count else np.arange(len(rows))
        images, labels = [], []
        for index in order[:count]:
            image = Image.open(io.BytesIO(archive.read(rows[index][0]))).convert("RGB")
            left, top = (image.width - 224) // 2, (image.height - 224) // 2
            pixels = np.asarray(image.crop((left, top, left + 224, top + 224)), dtype=np.float32) / 255
            images.append((pixels - 0.5) / 0.5)
            labels.append(int(rows[index][1]))
    return Samples(torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous(), torch.tensor(labels))


CIFAR_RESNET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CIFAR_VIT = ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))


def cifar10(name: str, mean_std: tuple[tuple[float, ...], tuple[float, ...]]) -> Samples:
    """``calib_1000`` or ``test_a5000``."""
    with np.load(SHARED / "images" / f"cifar10_{name}.npz") as archive:
        x, y = archive["x"].astype(np.float32) / 255, archive["y"]
    mean, std = (np.asarray(part, dtype=np.float32) for part in mean_std)
    return Samples(torch.from_numpy((x - mean) / std).permute(0, 3, 1, 2).contiguous(), torch.from_numpy(y))


def tiny_stories(length: int, count: int, start: int = 0) -> Samples:
    """Stories cut at ``length`` tokens and padded behind; targets are the next tokens, -1 in the padding."""
    with np.load(SHARED / "text" / "tinystories_a_tok512.npz") as archive:
        ids, offsets = archive["ids"].astype(np.int64), archive["offsets"]
    inputs, labels = np.ones((count, length), dtype=np.int64), np.full((count, length), -1, dtype=np.int64)
    for row in range(count):
        story = ids[offsets[start + row] : offsets[start + row + 1]][:length]
        inputs[row, : len(story)] = story
        labels[row, : len(story) - 1] = story[1:]
    return Samples(torch.from_numpy(inputs), torch.from_numpy(labels))


def top1(logits: Tensor, labels: Tensor) -> float:
    """Percent of right answers."""
    return float((logits.argmax(-1) == labels).double().mean()) * 100


def perplexity(logits: Tensor, labels: Tensor) -> float:
    """Exp of the mean next-token loss over scored tokens."""
    flat, wanted = logits.flatten(0, -2), labels.flatten()
    return float(torch.nn.functional.cross_entropy(flat, wanted, ignore_index=-1).exp())


def kl_to_float(reference: Tensor, logits: Tensor, mask: Tensor | None = None) -> float:
    """Mean KL(float || quantized) in nats."""
    left, right = reference.log_softmax(-1), logits.log_softmax(-1)
    each = (left.exp() * (left - right)).sum(-1)
    return float(each.mean() if mask is None else each[mask].mean())
