"""How much a small error anywhere moves the output of a network: Fisher information, one backward per probe.

For a network whose output is a distribution p, an error d in some tensor changes it by
KL = 1/2 E[(g . d)^2] + O(d^3), where g is the gradient of log p(y) at labels y drawn from p itself
(Amari 1998). Quantization errors are close to independent of each other and of g, which leaves
1/2 sum E[g^2] d^2: one squared gradient per weight and per activation, summed over layers. Instead of one
label, the probe takes the random vector (diag(sqrt p) - p sqrt(p)^T) e with random signs e: the same
covariance diag(p) - p p^T, less variance. Outputs that are no distribution (embeddings, hidden states)
count as the mean of a Gaussian whose variance is the squared norm of the output vector, so that their KL is
half the relative squared error. So do all outputs but the first, relative to the mean over the samples; their
divergences are added, which takes no further pass, since the signs of their probes are independent.
"""

from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx

from quant.errors import QuantError
from quant.predictions import class_axis, classes_last, float_tensors, mean_squares
from quant.ranges import mse_affine_ranges

FloatArray = NDArray[np.float32]
Head = Literal["classes", "tokens", "features"]
aten = torch.ops.aten
PRODUCTS = (aten.linear.default, aten.conv2d.default, aten.matmul.default)
DEFAULT_ACT_BITS = (2, 3, 4, 5, 6, 8)
# Samples (over all probes) at which the exact and the steady estimate of an activation loss weigh the same.
STEADY = 4.0


@dataclass(frozen=True)
class LayerSensitivity:
    """Sensitivity of one product, per prediction (one class vector, one token, one feature vector).

    `squared_gradient` has the shape of the weight (None in a product of two activations). `input_energy`
    is E[sum (d log p / d x)^2] for each operand that is an activation. `act_loss[operand][bits]` is the
    predicted divergence in nats when that operand alone is quantized per tensor. `moments` and `means` hold
    E[x_j^2] and E[x_j] of the input channels of the first operand.
    """

    squared_gradient: FloatArray | None
    input_energy: tuple[float, ...]
    act_loss: tuple[dict[int, float], ...]
    moments: FloatArray
    means: FloatArray

    def operand_loss(self, operand: int, bits: int | None) -> float:
        """Predicted divergence from quantizing one activation operand to `bits`; 0 in float.

        A width that was not measured follows from the nearest one: a bit more quarters the error.
        """
        return 0.0 if bits is None else _at_width(self.act_loss[operand], bits)


@dataclass(frozen=True)
class Sensitivity:
    """Sensitivities of all products of a network and what they rest on."""

    layers: dict[str, LayerSensitivity]
    head: Head
    predictions: int
    """Of the first output."""
    seed: int
    synthetic: bool = False
    others: int = 0
    """Further outputs, judged by their relative squared errors."""


def _at_width(table: dict[int, float], bits: int) -> float:
    if not table:  # no gradient came here: the product feeds no output, or one of whole numbers
        return 0.0
    if bits in table:
        return table[bits]
    nearest = min(table, key=lambda width: abs(width - bits))
    return table[nearest] * 4.0 ** (nearest - bits)


@dataclass
class _Sums:
    """Running sums of one layer over probes."""

    gradient: Tensor | None = None
    energy: list[float] = field(default_factory=lambda: [0.0, 0.0])
    loss: list[dict[int, list[float]]] = field(default_factory=lambda: [{}, {}])
    samples: list[int] = field(default_factory=lambda: [0, 0])
    moment: Tensor | None = None
    mean: Tensor | None = None
    batches: int = 0
    operands: int = 1


def measure_sensitivity(
    module: fx.GraphModule,
    batches: Iterable[Sequence[Tensor]],
    *,
    head: Head | None = None,
    seed: int = 0,
    draws: int = 1,
    act_bits: Sequence[int] = DEFAULT_ACT_BITS,
    synthetic: bool = False,
) -> Sensitivity:
    """Run one forward and `draws` backward passes per batch; squared gradients of every product at once.

    Args:
        module: exported graph; products are aten.linear, conv2d and matmul nodes with `meta["layer"]`.
        batches: inputs of the module, each a sequence of tensors; a batch is one forward.
        head: what the first output means; None guesses (see `guess_head`).
        seed: of the random probes.
        draws: probes per batch.
        act_bits: widths for which the loss from quantized activations is measured.
        synthetic: recorded in the result: the inputs are no real data.
    """
    generator = torch.Generator().manual_seed(seed)
    batches = [tuple(inputs) for inputs in batches]
    powers = output_powers(module, batches)
    sums: dict[str, _Sums] = {}
    predictions, further = 0, 0
    chosen = head
    for inputs in batches:
        with torch.enable_grad(), _frozen(module):
            output = _Recorder(module, sums, tuple(act_bits)).run(*inputs)
            logits, *others = float_tensors(output)
            numbers = [
                (tensor, p) for tensor, p in zip(others, powers[1:], strict=True) if tensor.requires_grad
            ]
            alone = class_axis(logits) is None
            logits = logits.reshape(-1, 1) if alone else classes_last(logits)
            if not logits.requires_grad:
                raise QuantError(
                    "sensitivity: the model's first output does not follow its layers smoothly (a class number, or a "
                    "constant); let the model return its scores first"
                )
            chosen = chosen or guess_head(module, logits, inputs)
            count, further = logits.numel() // logits.shape[-1], len(numbers)
            predictions += count
            for draw in range(draws):
                probes = [
                    _signs(logits, generator) / powers[0] ** 0.5
                    if alone
                    else output_probe(logits.detach(), chosen, generator)
                ]
                probes += [
                    _signs(tensor, generator) * (count / (tensor.numel() * power)) ** 0.5
                    for tensor, power in numbers
                ]
                probes = [probe / draws**0.5 for probe in probes]
                tensors = [logits, *(tensor for tensor, _ in numbers)]
                torch.autograd.backward(tensors, probes, retain_graph=draw + 1 < draws)
    if chosen is None:
        raise QuantError("sensitivity: no inputs given; pass at least one batch")
    layers = {name: _finish(total, predictions) for name, total in sums.items()}
    return Sensitivity(layers, chosen, predictions, seed, synthetic, further)


@contextmanager
def _frozen(module: fx.GraphModule) -> Generator[None]:
    """No parameter of the module collects a gradient meanwhile; the probes read theirs from copies."""
    live = [parameter for parameter in module.parameters() if parameter.requires_grad]
    try:
        for parameter in live:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in live:
            parameter.requires_grad_(True)


def output_probe(logits: Tensor, head: Head, generator: torch.Generator) -> Tensor:
    """A random vector whose covariance is the Fisher information of the output, one per prediction."""
    signs = _signs(logits, generator)
    if head == "features":
        norm = logits.pow(2).sum(dim=-1, keepdim=True).sqrt().clamp_min(1e-12)
        return signs / norm
    p = torch.softmax(logits, dim=-1)
    spread = p.sqrt() * signs
    return spread - p * spread.sum(dim=-1, keepdim=True)


def output_powers(module: fx.GraphModule, batches: Sequence[Sequence[Tensor]]) -> list[float]:
    """By what squared errors of each output are divided: its mean square over all batches (1 for a lone vector)."""
    if not batches:
        return []
    with torch.no_grad():
        first = float_tensors(module(*batches[0]))
        if len(first) == 1 and class_axis(first[0]) is not None:
            return [1.0]
        return mean_squares([first, *(float_tensors(module(*inputs)) for inputs in batches[1:])])


def _signs(values: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randint(0, 2, values.shape, generator=generator).to(values.dtype) * 2 - 1


def guess_head(module: fx.GraphModule, logits: Tensor, inputs: Sequence[Tensor]) -> Head:
    """Two axes, or maps with the classes moved last, are class logits if there is a choice.

    Three axes are token logits with token inputs and a vocabulary.
    """
    if inputs and inputs[0].is_floating_point():
        return "classes" if logits.dim() in (2, 4) and logits.shape[-1] > 1 else "features"
    vocabulary = 0
    for node in module.graph.nodes:
        if node.op == "call_function" and node.target is aten.embedding.default:
            vocabulary = max(vocabulary, _attribute(module, str(node.args[0].target)).shape[0])
    return "tokens" if logits.dim() == 3 and logits.shape[-1] == vocabulary else "features"


def _attribute(module: fx.GraphModule, name: str) -> Tensor:
    value: Any = module
    for part in name.split("."):
        value = getattr(value, part)
    return value


def first_tensor(output: Any) -> Tensor:
    """The first tensor of a nested output."""
    while not isinstance(output, Tensor):
        output = next(iter(output.values())) if isinstance(output, dict) else output[0]
    return output


class _Recorder(fx.Interpreter):
    """Runs the graph and hangs a hook on every operand of every product."""

    def __init__(self, module: fx.GraphModule, sums: dict[str, _Sums], act_bits: tuple[int, ...]) -> None:
        super().__init__(module)
        self.sums = sums
        self.act_bits = act_bits

    def run_node(self, n: fx.Node) -> Any:
        if n.op != "call_function" or n.target not in PRODUCTS or "layer" not in n.meta:
            return super().run_node(n)
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        total = self.sums.setdefault(n.meta["layer"], _Sums())
        operands = list(args)
        operands[0] = self._watch(args[0], total, 0)
        _add_moments(total, args[0].detach(), n)
        if n.target is aten.matmul.default:
            total.operands = 2
            operands[1] = self._watch(args[1], total, 1)
        else:
            operands[1] = _leaf(args[1], lambda grad: _add_square(total, grad))
        return n.target(*operands, **kwargs)  # type: ignore[operator]

    def _watch(self, value: Tensor, total: _Sums, position: int) -> Tensor:
        # The hook must not hold the recorder: through the tape that would be a circle Python cannot collect.
        plain, act_bits = value.detach(), self.act_bits

        def record(grad: Tensor) -> None:
            total.energy[position] += float(torch.linalg.vector_norm(grad, dtype=torch.float64) ** 2)
            total.samples[position] += plain.shape[0] if plain.dim() > 1 else 1
            _add_noise(total.loss[position], act_bits, plain, grad)

        if not value.requires_grad:
            return _leaf(value, record)
        alias = value.view_as(value)
        alias.register_hook(record)
        return alias


def _add_noise(table: dict[int, list[float]], act_bits: tuple[int, ...], value: Tensor, grad: Tensor) -> None:
    """Add half the squared effect of the quantization error d of one operand, width by width.

    Activation errors are not independent: a clipped outlier channel errs alike at every position. The
    squared sum (g . d)^2 of each sample counts that exactly but is one noisy number; the sum of squares
    is steady but misses it. They are weighted by how many samples there are to average.
    """
    samples = value.shape[0] if value.dim() > 1 else 1
    for bits, interval in zip(act_bits, mse_affine_ranges(value, act_bits), strict=True):
        noise = interval.error(value).mul_(grad)
        steady = float(torch.linalg.vector_norm(noise) ** 2)
        exact = float(torch.linalg.vector_norm(noise.reshape(samples, -1).sum(1)) ** 2)
        sums = table.setdefault(bits, [0.0, 0.0])
        sums[0] += 0.5 * steady
        sums[1] += 0.5 * exact


def _leaf(value: Tensor, record: Callable[[Tensor], None]) -> Tensor:
    """A detached copy whose gradient goes to `record` and is then dropped, so that no gradient is kept."""
    leaf = value.detach().requires_grad_(True)

    def take(tensor: Tensor) -> None:
        assert tensor.grad is not None
        record(tensor.grad)
        tensor.grad = None

    leaf.register_post_accumulate_grad_hook(take)
    return leaf


def _add_square(total: _Sums, grad: Tensor) -> None:
    if total.gradient is None:
        total.gradient = grad.pow(2)
    else:
        total.gradient.addcmul_(grad, grad)


def _add_moments(total: _Sums, value: Tensor, node: fx.Node) -> None:
    channel = 1 if node.target is aten.conv2d.default else value.dim() - 1
    axes = [axis for axis in range(value.dim()) if axis != channel]
    mean = value.mean(dim=axes) if axes else value
    moment = value.pow(2).mean(dim=axes) if axes else value.pow(2)
    total.mean = mean if total.mean is None else total.mean + mean
    total.moment = moment if total.moment is None else total.moment + moment
    total.batches += 1


def _blend(sums: list[float], samples: int) -> float:
    """The steady and the exact estimate, weighted by how many samples the exact one averages."""
    trust = samples / (samples + STEADY)
    return (1 - trust) * sums[0] + trust * sums[1]


def _finish(total: _Sums, predictions: int) -> LayerSensitivity:
    assert total.moment is not None and total.mean is not None
    gradient = None if total.gradient is None else (total.gradient / predictions).numpy()
    return LayerSensitivity(
        squared_gradient=gradient,
        input_energy=tuple(value / predictions for value in total.energy[: total.operands]),
        act_loss=tuple(
            {bits: _blend(sums, samples) / predictions for bits, sums in sorted(table.items())}
            for table, samples in zip(total.loss[: total.operands], total.samples, strict=False)
        ),
        moments=(total.moment / total.batches).numpy(),
        means=(total.mean / total.batches).numpy(),
    )
