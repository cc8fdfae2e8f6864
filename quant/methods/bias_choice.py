"""Which error a bias repairs and whether a gain goes with it, chosen on samples that no bias was fitted to.

No one of them is best. All that came together on the quantized path is the larger error and the noisier one: with
few samples and outputs far from the float ones, what the layer itself adds is the better guide (ViT-Tiny). Where
rounding shrinks the outputs, a bias without a gain silences the network (ResNet-20 at 2 bits, output_gain.py);
where a few tokens make up the spread, a gain of its own for each channel is noise. The divergence of the whole
network's predictions decides, on one half of the samples by biases that were fitted to the other half: the few
images that a referee holds out would say too little. The rounding is made once for all candidates, and so are the
float outputs.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from torch import Tensor

from quant.methods.bias_compensation import BiasPath
from quant.methods.calibrate import Calibrated, CalibrationOptions, calibrate
from quant.methods.float_outputs import FloatOutputs, float_outputs
from quant.methods.held_out import divergence, float_predictions
from quant.methods.output_gain import Gain
from quant.methods.weight_grids import FINE_BITS
from quant.scheme import Scheme

BiasKind = tuple[BiasPath, Gain]
PLAIN: BiasKind = ("quantized", "none")
STRETCHED: BiasKind = ("quantized", "channel")
CANDIDATES: tuple[BiasKind, ...] = (PLAIN, STRETCHED, ("local", "layer"))
PATHS: tuple[BiasPath, ...] = ("quantized", "local")
"""What is tried where the gain is given."""
FEWEST_FOR_A_GAIN = 8
"""Samples below which a gain for each channel is fitted to too little, whatever the few that judge it say."""
Batch = Sequence[Tensor]


def likely(
    assignment: Mapping[str, Scheme], options: CalibrationOptions, samples: int
) -> tuple[BiasKind, ...]:
    """The candidates worth a pass: rounding to nearest shrinks below `FINE_BITS` and hardly does from there on.

    GPTQ keeps the spread of some networks and not of others.
    """
    if samples < FEWEST_FOR_A_GAIN:
        return tuple(kind for kind in CANDIDATES if kind != STRETCHED)
    if options.gptq is not None:
        return CANDIDATES
    widths = [s.weight_bits * s.order for s in assignment.values() if s.weight_bits is not None]
    dropped = PLAIN if min(widths, default=FINE_BITS) < FINE_BITS else STRETCHED
    return tuple(kind for kind in CANDIDATES if kind != dropped)


def choose_bias(
    rounded: Calibrated,
    assignment: Mapping[str, Scheme],
    options: CalibrationOptions,
    candidates: Sequence[BiasKind],
    batches: Sequence[Batch],
    wanted: FloatOutputs | None = None,
) -> BiasKind:
    """The candidate with the least divergence on samples it was not fitted to; the first if there is no choice.

    ``wanted`` are the float outputs on all batches, where somebody has them.
    """
    if len(candidates) == 1 or len(batches) < 2:
        return candidates[0]
    halves = slice(0, None, 2), slice(1, None, 2)
    fit, judge = (batches[half] for half in halves)
    reference = (
        float_predictions(rounded.module, judge) if wanted is None else wanted.of(halves[1]).predictions
    )
    outputs = (
        float_outputs(rounded.module, assignment, fit, options.memory)
        if wanted is None
        else wanted.of(halves[0])
    )
    scores: dict[BiasKind, float] = {}
    for path, gain in candidates:
        tried = replace(options, bias_path=path, bias_gain=gain)
        made = calibrate(rounded.module, assignment, fit, tried, start=rounded, wanted=outputs)
        score = divergence(made, judge, reference)
        scores[path, gain] = score if math.isfinite(score) else math.inf  # a network that blew up
    return min(scores, key=scores.__getitem__)
