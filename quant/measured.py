"""What one change to one product does to the output, measured instead of estimated.

`quant.sensitivity` predicts a divergence to second order, which is right for small errors that act alone. Large
errors (few bits, clipped outliers) and errors that move together are measured here: everything else stays in
float, one product gets a quantized weight or quantized operands, and the network is run again from there on, as
the per-layer sensitivity of AIMET and NNCF does. All batches move through the graph in step, so that a trial
costs only the part of the network behind it.
"""
# pyright: basic
# torch.fx nodes are untyped in torch's stubs.

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from quant.errors import QuantError
from quant.predictions import class_axis, classes_last, comparable, float_tensors, mean_squares
from quant.ranges import AffineRange
from quant.sensitivity import PRODUCTS, Head, guess_head

Env = dict[fx.Node, Any]


@dataclass(frozen=True, slots=True)
class Trial:
    """One change of one product: another weight, or its activation operands on grids (None stays float).

    `centred` takes the mean error of every output channel away, as Bias Compensation does with a bias.
    """

    key: Hashable
    weight: Tensor | None = None
    ranges: tuple[AffineRange | None, ...] = ()
    centred: bool = False


def divergence(
    reference: Sequence[Tensor], output: Sequence[Tensor], head: Head, powers: Sequence[float] = ()
) -> float:
    """Of the first output as ``head`` reads it, and half the relative squared errors of all others.

    ``powers`` are the mean squares of the outputs where more is known than these (`output_powers`).
    """
    powers = powers or mean_squares([reference])
    if class_axis(reference[0]) is None:
        total = _half_error(reference[0], output[0], powers[0])
    else:
        total = _first_divergence(classes_last(reference[0]), classes_last(output[0]), head)
    later = zip(reference[1:], output[1:], powers[1:], strict=True)
    return total + sum(_half_error(exact, found, power) for exact, found, power in later)


def _half_error(exact: Tensor, found: Tensor, power: float) -> float:
    """Half the squared error of what is finite, relative to ``power``."""
    error = (found - exact)[comparable(exact, found)].double().square()
    return float(0.5 * error.mean() / power) if len(error) else 0.0


def _first_divergence(reference: Tensor, output: Tensor, head: Head) -> float:
    """Mean divergence from the reference of one prediction: KL, or half the relative squared error."""
    if head == "features":
        error = (output - reference).double().square().sum(-1)
        return float((0.5 * error / reference.double().square().sum(-1).clamp_min(1e-24)).mean())
    target, found = reference.double().log_softmax(-1), output.double().log_softmax(-1)
    return float((target.exp() * (target - found)).sum(-1).mean())


def measure_alone(
    module: fx.GraphModule,
    batches: Sequence[Sequence[Tensor]],
    trials: Callable[[str], Sequence[Trial]],
    head: Head | None = None,
) -> dict[str, dict[Hashable, float]]:
    """Mean divergence of the output for every trial of every product; `trials(layer)` is asked once a layer.

    `head` says what the first output means; None guesses (see `quant.sensitivity.guess_head`).
    """
    if not batches:
        raise QuantError("measured errors: no inputs given; pass at least one batch")
    runner = _Runner(module)
    found: dict[str, dict[Hashable, float]] = {}
    with torch.no_grad():
        references = [runner.finish({}, 0, batch) for batch in batches]
        meaning = head or guess_head(module, classes_last(references[0][0]), batches[0])
        powers = mean_squares(references)
        envs: list[Env] = [{} for _ in batches]
        for index, node in enumerate(runner.nodes):
            if node.op == "output":
                break
            if node.op == "call_function" and node.target in PRODUCTS and "layer" in node.meta:
                results = found.setdefault(node.meta["layer"], {})
                for trial in trials(node.meta["layer"]):
                    changed = [runner.product(env, node, trial) for env in envs]
                    if trial.centred:
                        _centre(node, changed, [runner.product(env, node, Trial(None)) for env in envs])
                    outputs = [runner.behind(env, index, y) for env, y in zip(envs, changed, strict=True)]
                    pairs = zip(references, outputs, strict=True)
                    results[trial.key] = sum(divergence(r, o, meaning, powers) for r, o in pairs) / len(
                        batches
                    )
            for env, batch in zip(envs, batches, strict=True):
                runner.step(env, node, batch)
    return found


class _Runner(fx.Interpreter):
    """Runs a graph node by node on an environment that the caller keeps."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.nodes = list(module.graph.nodes)
        self.inputs = [node for node in self.nodes if node.op == "placeholder"]

    def step(self, env: Env, node: fx.Node, batch: Sequence[Tensor] = ()) -> None:
        """Add the value of one node and drop what no later node reads."""
        self.env = env
        env[node] = batch[self.inputs.index(node)] if node.op == "placeholder" else self.run_node(node)
        for dead in self.user_to_last_uses.get(node, ()):
            env.pop(dead, None)

    def finish(self, env: Env, start: int, batch: Sequence[Tensor] = ()) -> list[Tensor]:
        """The network's outputs, from node number `start` on."""
        for node in self.nodes[start:]:
            if node.op == "output":
                self.env = env
                return float_tensors(self.run_node(node))
            self.step(env, node, batch)
        raise QuantError("measured errors: the graph has no output")

    def product(self, env: Env, node: fx.Node, trial: Trial) -> Tensor:
        """The value of a product under a trial."""
        self.env = env
        args, kwargs = self.fetch_args_kwargs_from_env(node)
        operands = list(args)
        for position, interval in enumerate(trial.ranges):
            if interval is not None:
                operands[position] = args[position] + interval.error(args[position])
        if trial.weight is not None:
            operands[1] = trial.weight.reshape(args[1].shape).to(args[1].dtype)
        assert callable(node.target)
        return node.target(*operands, **kwargs)

    def behind(self, env: Env, index: int, value: Tensor) -> list[Tensor]:
        """The outputs when node number `index` has this value; `env` is left as it is."""
        fork = {**env, self.nodes[index]: value}
        for dead in self.user_to_last_uses.get(self.nodes[index], ()):
            fork.pop(dead, None)
        return self.finish(fork, index + 1)


def _centre(node: fx.Node, changed: Sequence[Tensor], plain: Sequence[Tensor]) -> None:
    """Take the mean error of every output channel, over all batches, out of the changed values."""
    channel = 1 if node.target is torch.ops.aten.conv2d.default else changed[0].dim() - 1
    axes = [axis for axis in range(changed[0].dim()) if axis != channel]
    errors = [c.mean(dim=axes, keepdim=True) - p.mean(dim=axes, keepdim=True)
              for c, p in zip(changed, plain, strict=True)]  # fmt: skip
    mean = torch.stack(errors).mean(dim=0)
    for value in changed:
        value.sub_(mean)
