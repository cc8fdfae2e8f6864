"""The four image networks of the accuracy table with their data, loaded once and with their float outputs."""

from dataclasses import dataclass, field, replace
from pathlib import Path

import datasets
import torch
from cells import Cell, Outcome, Store, packed
from torch import Tensor, fx

from hwsim.model.load import load_model
from quant.methods.interpret import GraphRunner
from quant.scheme import Scheme

HERE = Path(__file__).resolve().parent
FLOAT = "float"


@dataclass(frozen=True)
class Recipe:
    """How to load a network: its spec, weights, family, batch, calibration samples and evaluation images."""

    name: str
    spec: str
    weights: str | None
    family: str
    batch: int
    samples: int
    images: int
    statistics: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    """Mean and deviation of CIFAR pixels; None for ImageNet."""

    def load(self, store: Store) -> "Subject":
        """Network, evaluation data and float outputs; the float line goes into the store."""
        weights = None if self.weights is None else datasets.SHARED / "models" / self.weights
        loaded = load_model(self.spec, weights=weights, batch=self.batch)
        test, runner = self.shuffled(self.images), GraphRunner(loaded.module)
        subject = scored_on(
            test, Subject(self, loaded.module, runner, [], test.labels, test.labels, loaded.batch_norms)
        )
        cell = Cell(self.name, FLOAT, FLOAT, 0, self.images)
        if cell not in store.found:
            store.add(cell, Outcome(packed(subject.exact.argmax(-1) == subject.labels), 0.0, 0.0))
        return subject

    def shuffled(self, count: int | None = None) -> datasets.Samples:
        """The first images of the test set in a fixed random order; all of them without a count."""
        if self.statistics is None:
            return datasets.imagenet("val_a650", count or 650, 5)
        whole = datasets.cifar10("test_a5000", self.statistics)
        return whole.take(count or len(whole.labels), 5)


@dataclass(frozen=True)
class Subject:
    """A loaded network and the images it is scored on."""

    recipe: Recipe
    module: fx.GraphModule
    runner: GraphRunner
    batches: list[tuple[Tensor]]
    labels: Tensor
    exact: Tensor
    batch_norms: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def products(self, scheme: Scheme) -> list[str]:
        """Products in order; those of two activations are left in float under weight-only schemes."""
        found = self.runner.products.values()
        return [p.name for p in found if p.kind != "matmul" or scheme.act_bits is not None]

    def calibration(self, seed: int) -> list[tuple[Tensor]]:
        """Unlabelled samples of a seed."""
        recipe = self.recipe
        if recipe.statistics is None:
            return datasets.imagenet("calib_1000", recipe.samples, seed).batches(recipe.batch)
        samples = datasets.cifar10("calib_1000", recipe.statistics).take(recipe.samples, seed)
        return samples.batches(recipe.batch)


def scored_on(test: datasets.Samples, subject: Subject) -> Subject:
    """The same network with other evaluation images, and what the float network says of them."""
    batches = test.batches(subject.recipe.batch)
    with torch.no_grad():
        exact = torch.cat([subject.runner.logits(batch) for batch in batches])
    return replace(subject, batches=batches, labels=test.labels[: len(exact)], exact=exact)


_CIFAR = f"{HERE / 'networks.py'}"
SUBJECTS = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            "cifar10_resnet20",
            f"{_CIFAR}:cifar10_resnet20",
            None,
            "cnn",
            32,
            512,
            2016,
            datasets.CIFAR_RESNET,
        ),
        Recipe("cifar10_vit", f"{_CIFAR}:cifar10_vit", None, "vit", 32, 128, 2016, datasets.CIFAR_VIT),
        Recipe("vit_tiny", "vit_t", "vit_tiny_patch16_224.safetensors", "vit", 8, 32, 192),
        Recipe(
            "mobilenetv2",
            "timm:mobilenetv2_100[pad_type=same]",
            "mobilenetv2_100_tfslim.safetensors",
            "cnn",
            16,
            128,
            640,
        ),
    )
}
