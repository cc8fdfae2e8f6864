"""The predicted error of every option of every layer, in nats of output divergence.

Weights and activations are profiled by ``quant`` (see ``docs/design.md``, "The error model"). Without
calibration data the probes are seeded synthetic inputs; without weights (shapes alone) a closed form for
Gaussian weights and equal sensitivity of all layers stands in. ``ErrorProfile.basis`` says what was used.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from hwsim.errors import UserError
from quant.scheme import Scheme

if TYPE_CHECKING:
    from torch import Tensor

    from hwsim.model.graph import Layer
    from hwsim.model.load import LoadedModel
    from quant.sensitivity import LayerSensitivity, Sensitivity

SYNTHETIC_PROBES = 2


@dataclass(frozen=True)
class WeightError:
    """What quantizing the weights of one layer does."""

    loss: float
    relative: float
    sup_bound: float
    measured_sup: float


@dataclass(frozen=True)
class LayerErrors:
    """Errors of the options of one layer; ``weights`` is keyed by schemes without activation bits.

    In a product of two activations ``weights`` holds the second of them, and ``activations`` the first alone.
    """

    weights: dict[Scheme, WeightError]
    activations: dict[int | None, float]

    def error(self, scheme: Scheme) -> float:
        """Predicted divergence that this option adds."""
        if scheme.is_float:
            return 0.0
        return self._weight(scheme).loss + self.activations[scheme.act_bits]

    def relative(self, scheme: Scheme) -> float:
        """Squared weight error over the squared weight."""
        return self._weight(scheme).relative

    def _weight(self, scheme: Scheme) -> WeightError:
        """What the profile knows of the weights; a recipe that was not measured counts as none."""
        if not self.weights:
            return WeightError(0.0, 0.0, 0.0, 0.0)
        part = weight_part(scheme)
        return self.weights[part if part in self.weights else replace(part, recipe=())]


@dataclass(frozen=True)
class ErrorProfile:
    """Errors of all product layers and what they rest on."""

    layers: dict[str, LayerErrors]
    basis: str

    def to_json(self, key: str) -> str:
        """One document; ``key`` says what it was made from."""
        layers = {
            name: {
                "weights": {
                    str(scheme): [e.loss, e.relative, e.sup_bound, e.measured_sup]
                    for scheme, e in errors.weights.items()
                },
                "activations": {str(bits or "fp"): loss for bits, loss in errors.activations.items()},
            }
            for name, errors in self.layers.items()
        }
        document = {"schema_version": 2, "key": key, "basis": self.basis, "layers": layers}
        return json.dumps(document, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: str, key: str) -> "ErrorProfile | None":
        """Read what ``to_json`` wrote; None when it was made from something else."""
        try:
            document = json.loads(text)
            if document["schema_version"] != 2 or document["key"] != key:
                return None
            layers = {
                name: LayerErrors(
                    {Scheme.parse(scheme): WeightError(*e) for scheme, e in entry["weights"].items()},
                    {None if b == "fp" else int(b): float(v) for b, v in entry["activations"].items()},
                )
                for name, entry in document["layers"].items()
            }
            return cls(layers, document["basis"])
        except (ValueError, KeyError, TypeError):
            return None


def weight_part(scheme: Scheme) -> Scheme:
    """The scheme as far as it concerns the weights."""
    return Scheme(
        scheme.weight_bits,
        None,
        scheme.order,
        scheme.kept,
        scheme.axis,
        scheme.binary_last,
        recipe=scheme.recipe,
    )


def profile_errors(
    model: "LoadedModel",
    offered: Sequence[Sequence[Scheme]],
    batches: "Sequence[tuple[Tensor, ...]]",
    *,
    data: str | None,
    seed: int,
) -> ErrorProfile:
    """Profile all offered schemes; ``batches`` are ``data`` (None: ``synthetic_inputs``)."""
    from quant.sensitivity import measure_sensitivity

    products = model.graph.products()
    wanted = _activation_widths(products, offered)
    sensitivity = measure_sensitivity(
        model.module, batches, seed=seed, act_bits=wanted, synthetic=data is None
    )
    state = model.module.state_dict()
    layers: dict[str, LayerErrors] = {}
    for layer, schemes in zip(products, offered, strict=True):
        found = sensitivity.layers.get(layer.name)
        if found is None:
            raise UserError(f"layer {layer.name}: the error profile did not reach it; its output is not used")
        weight = None if layer.packed_weight is None else state[layer.packed_weight]
        layers[layer.name] = _profile_layer(layer, weight, schemes, found)
    return ErrorProfile(layers, _basis(sensitivity, data or f"{len(batches)} seeded synthetic inputs"))


def _activation_widths(products: "Sequence[Layer]", offered: Sequence[Sequence[Scheme]]) -> list[int]:
    """Widths at which activations occur: as first operands everywhere, as second ones between activations."""
    found: set[int | None] = set()
    for layer, schemes in zip(products, offered, strict=True):
        found |= {scheme.act_bits for scheme in schemes}
        found |= {scheme.weight_bits for scheme in schemes if layer.packed_weight is None}
    return sorted(bits for bits in found if bits is not None)


def _profile_layer(
    layer: "Layer", weight: "Tensor | None", schemes: Sequence[Scheme], found: "LayerSensitivity"
) -> LayerErrors:
    from quant.profile import profile_layer

    activations = {scheme.act_bits: found.operand_loss(0, scheme.act_bits) for scheme in schemes}
    parts = list(dict.fromkeys(weight_part(scheme) for scheme in schemes if not scheme.is_float))
    if weight is None:
        second = {part: WeightError(found.operand_loss(1, part.weight_bits), 0.0, 0.0, 0.0) for part in parts}
        return LayerErrors(second, activations)
    profiled = profile_layer(
        weight.detach().float().numpy(),
        parts,
        macs=layer.macs,
        groups=layer.groups,
        squared_gradient=found.squared_gradient,
        column_moments=found.moments if layer.groups == 1 else None,
    )
    weights = {
        option.scheme: WeightError(
            option.loss or 0.0, option.relative_error, option.sup_bound, option.measured_sup
        )
        for option in profiled
    }
    return LayerErrors(weights, activations)


def profile_shapes(model: "LoadedModel", offered: Sequence[Sequence[Scheme]]) -> ErrorProfile:
    """Closed form for a network without weights: Gaussian tensors, every layer equally sensitive.

    Half the relative squared error of each layer's output is added up, as if all errors reached the output
    undamped and the output were the mean of a Gaussian of its own size.
    """
    from quant.gaussian import relative_activation_error, relative_weight_error

    layers: dict[str, LayerErrors] = {}
    for layer, schemes in zip(model.graph.products(), offered, strict=True):
        activations = {
            scheme.act_bits: 0.5 * relative_activation_error(scheme.act_bits) for scheme in schemes
        }
        weights: dict[Scheme, WeightError] = {}
        for part in dict.fromkeys(weight_part(scheme) for scheme in schemes if not scheme.is_float):
            if layer.packed_weight is None:
                relative = relative_activation_error(part.weight_bits)
            else:
                relative = relative_weight_error(part, layer.k)
            weights[part] = WeightError(0.5 * relative, relative, 0.0, 0.0)
        layers[layer.name] = LayerErrors(weights, activations)
    return ErrorProfile(layers, "no weights: closed form for Gaussian tensors, all layers equally sensitive")


def synthetic_inputs(
    model: "LoadedModel", seed: int, probes: int = SYNTHETIC_PROBES
) -> "list[tuple[Tensor, ...]]":
    """Seeded stand-ins for data: smooth noise of unit variance as images, random tokens as text."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    vocabulary: int | None = model.data_config.get("vocab_size")
    batches: list[tuple[Tensor, ...]] = []
    for _ in range(probes):
        batch: list[Tensor] = []
        for example in model.example_inputs:
            if example.is_floating_point():
                batch.append(_smooth_noise(tuple(example.shape), generator).to(example.dtype))
            elif example.dtype == torch.bool or bool((example == example.flatten()[:1]).all()):
                batch.append(example)  # a mask: which value hides a place is the network's to know
            elif vocabulary is None:
                places = torch.randint(0, example.numel(), example.shape, generator=generator)
                batch.append(example.flatten()[places])
            else:
                batch.append(
                    torch.randint(0, vocabulary, example.shape, generator=generator).to(example.dtype)
                )
        batches.append(tuple(batch))
    return batches


def _smooth_noise(shape: tuple[int, ...], generator: "object") -> "Tensor":
    """White noise plus coarse noise: natural images have most of their energy in low frequencies."""
    import torch
    from torch.nn.functional import interpolate

    assert isinstance(generator, torch.Generator)
    noise = torch.randn(shape, generator=generator)
    if len(shape) != 4 or min(shape[2:]) < 16:
        return noise
    coarse = torch.randn((*shape[:2], shape[2] // 16, shape[3] // 16), generator=generator)
    smooth = interpolate(coarse, size=shape[2:], mode="bilinear", align_corners=False)
    mixed = smooth + 0.25 * noise
    return mixed / mixed.std()


def _basis(sensitivity: "Sensitivity", source: str) -> str:
    count = sensitivity.others
    others = f" and {count} further output{'s' if count > 1 else ''} as numbers" if count else ""
    return f"Fisher information from {source}, {sensitivity.predictions} predictions, head {sensitivity.head}{others}"
