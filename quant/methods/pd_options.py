"""Settings of PD-Quant: the authors' presets by architecture and one for two cores (methods.md 3.5)."""

from dataclasses import dataclass, field, replace
from math import inf

from quant.errors import QuantError
from quant.methods.activation_cache import BUDGET
from quant.methods.distribution_correction import CorrectionOptions


@dataclass(frozen=True)
class PdOptions:
    """PD-Quant on one network. ``lambda_r=inf`` is QDrop: no prediction difference."""

    iterations: int = 20000
    batch: int = 32
    learning_rate_rounding: float = 3e-3
    learning_rate_scale: float = 4e-5
    relative_scale_rate: bool = False
    """Take ``learning_rate_scale`` as a share of each scale: grids of 2 and of 8 bits move alike (ours)."""
    learning_rate_bias: float = 0.0
    """Above 0 biases are trained too (ours): they cost nothing at run time."""
    rounding_weight: float = 0.01
    temperature: float = 4.0
    lambda_r: float = 0.1
    drop_input: float = 0.5
    drop_inside: float = 0.5
    warmup: float = 0.2
    difference_every: int = 1
    """Evaluate the prediction difference on every n-th iteration; in between its last gradient stands. 0: on none."""
    difference_share: float = inf
    """Bound on the prediction difference's gradient to the rounding, relative to that of the other losses.

    0 leaves the rounding to the reconstruction alone; infinity is the authors' plain sum of losses.
    """
    polish: int = 0
    """Iterations of the last step, which tunes scales and biases of the whole network (ours, pd_polish.py)."""
    polish_rate: float = 2e-3
    correction: CorrectionOptions = field(default_factory=CorrectionOptions)
    holdout: float = 0.2
    seed: int = 1005
    checkpoint_every: int = 200
    memory: int = BUDGET
    """Bytes of activations held in memory; the rest lies in memory-mapped temporary files."""


_PAPER = {
    "resnet": (0.01, 4.0, 0.02),
    "regnet": (0.01, 4.0, 0.01),
    "mobilenet": (0.1, 1.0, 0.005),
    "mnasnet": (0.2, 1.0, 0.001),
    "transformer": (0.01, 4.0, 0.0),
}
"""Rounding weight, temperature, lambda_c by architecture; transformers have no batch norm to correct with."""


def paper_options(architecture: str) -> PdOptions:
    """The authors' settings: 20,000 iterations a unit, nothing held out."""
    if architecture not in _PAPER:
        raise QuantError(f"pd: no preset for {architecture!r}; choose from {', '.join(_PAPER)}")
    weight, temperature, lambda_c = _PAPER[architecture]
    correction = CorrectionOptions(lambda_c=lambda_c)
    return PdOptions(rounding_weight=weight, temperature=temperature, correction=correction, holdout=0.0)


def preset_options(preset: str, architecture: str) -> PdOptions:
    """``paper``, ``fast``, or ``qdrop``: fast without the prediction difference."""
    if preset == "paper":
        return paper_options(architecture)
    if preset not in ("fast", "qdrop"):
        raise QuantError(f"pd: no preset {preset!r}; choose from fast, paper, qdrop")
    fast = fast_options(architecture)
    return fast if preset == "fast" else replace(fast, lambda_r=inf)


def fast_options(architecture: str, iterations: int = 300) -> PdOptions:
    """Sized for two cores: a few hundred iterations a unit.

    Rates rise as iterations fall. Activation scales most of all: 20,000 steps at 4e-5 may move one by 0.4, so they
    move by a share of themselves here (w2a2, CIFAR-10 ResNet-20, QDrop: 58.5 % top-1 at an absolute 2e-4, 73.0 %
    at 2.5e-3). The prediction difference leaves the units alone: on the rounding it drowns the reconstruction in so few
    iterations (`pd_training.add_gradients`), and on the scales it was no gain (w2a4) or a loss (w2a2) where a polish
    follows. It judges every unit, and polishes scales and biases of the whole network at the end.
    Distribution correction is off: it would cost as much as the training.
    """
    base = paper_options(architecture)
    return replace(
        base,
        iterations=iterations,
        learning_rate_rounding=1e-2,
        learning_rate_scale=5e-3,
        relative_scale_rate=True,
        difference_every=0,
        polish=iterations,
        correction=replace(base.correction, iterations=0),
        holdout=0.2,
        checkpoint_every=100,
    )
