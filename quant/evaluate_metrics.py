"""Accuracy of a quantized network and its agreement with the float one, summed over batches.

top-1/top-5 from class labels, perplexity from next-token labels, and against the float outputs on the same
inputs: Kullback-Leibler divergence KL(float || quantized) in nats, cosine, and how often both choose the same
class. Where outputs have no classes, the squared error relative to the float outputs stands in their place. Every
sum runs in float64; one prediction is one image, one pixel of a map or one scored token.
"""
# pyright: basic
# tensor methods are untyped in torch's stubs.

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional

from quant.predictions import class_axis, classes_last

IGNORED = -100
"""Label of a position that is not scored (padding, last token)."""


@dataclass
class Metrics:
    """Running sums; `update` once per batch, then `result`."""

    labelled: int = 0
    compared: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    tokens: bool = False

    def update(self, outputs: Tensor, labels: Tensor | None, reference: Tensor | None = None) -> None:
        """Add a batch: outputs (see `quant.predictions`), labels of all but classes, `IGNORED` where not scored."""
        if class_axis(outputs) is None:
            if reference is not None:
                self._add("error", (outputs.double() - reference.double()).square().sum())
                self._add("power", reference.double().square().sum())
            return
        flat, kept = _scored(outputs, labels)
        if kept is not None and labels is not None:
            self.tokens = labels.ndim == 2
            self._add_labels(flat, labels.reshape(-1)[kept])
        if reference is not None:
            self._add_reference(flat, _scored(reference, labels)[0])

    def _add_labels(self, flat: Tensor, labels: Tensor) -> None:
        ranked = flat.topk(min(5, flat.shape[-1]), dim=-1).indices == labels[:, None]
        self._add("top1", ranked[:, 0].sum())
        self._add("top5", ranked.sum())
        self._add("nll", functional.cross_entropy(flat.double(), labels, reduction="sum"))
        self.labelled += len(labels)

    def _add_reference(self, flat: Tensor, reference: Tensor) -> None:
        target, found = (
            functional.log_softmax(reference.double(), -1),
            functional.log_softmax(flat.double(), -1),
        )
        self._add("kl", (target.exp() * (target - found)).sum())
        self._add("cosine", functional.cosine_similarity(flat.double(), reference.double(), dim=-1).sum())
        self._add("same", (flat.argmax(-1) == reference.argmax(-1)).sum())
        self.compared += len(flat)

    def _add(self, name: str, value: Tensor) -> None:
        self.sums[name] = self.sums.get(name, 0.0) + float(value)

    def result(self) -> dict[str, float]:
        """Means by name; only what was measured."""
        found: dict[str, float] = {}
        if self.labelled:
            share = 100.0 / self.labelled
            found["top1"], found["top5"] = self.sums["top1"] * share, self.sums["top5"] * share
            loss = self.sums["nll"] / self.labelled
            found["nll"] = loss
            if self.tokens:
                found["perplexity"] = math.exp(min(loss, 700.0))
        if self.compared:
            found["kl"] = self.sums["kl"] / self.compared
            found["cosine"] = self.sums["cosine"] / self.compared
            found["agreement"] = 100.0 * self.sums["same"] / self.compared
        if "power" in self.sums:
            found["relative_squared_error"] = self.sums["error"] / max(self.sums["power"], 1e-24)
        return found


def _scored(outputs: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Outputs as rows, only the scored ones where there are labels."""
    last = classes_last(outputs)
    flat = last.reshape(-1, last.shape[-1]).float()
    if labels is None:
        return flat, None
    kept = torch.nonzero(labels.reshape(-1) != IGNORED).flatten()
    return flat[kept], kept
