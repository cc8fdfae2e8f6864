"""Relative squared error of quantizing Gaussian tensors, in closed form: for planning from shapes alone.

A row of k independent normal weights has a maximum near sqrt(2 ln 2k) deviations; with max-abs scales
the step is that over 2^(b-1) - 1 and the squared error step^2 / 12 (at most the variance). Each further order
divides the step by 2^b - 1 (methods of residual expansion, centred scales); a binary last term quarters the
squared error. Rows or columns left out of an order keep the error they had.
"""

import math

from quant.scheme import Scheme

ACTIVATION_RANGE = 4.0  # least-squares clipping of a Gaussian is near 4 standard deviations at 8 bits
GAUSSIAN_CLIP = {2: 1.71, 3: 2.15, 4: 2.55, 5: 2.93, 6: 3.28, 7: 3.61, 8: 3.92}


def relative_weight_error(scheme: Scheme, row_length: int) -> float:
    """Squared error over squared weight; ``scheme`` may have sparse later orders and a binary last one."""
    if scheme.weight_bits is None:
        return 0.0
    largest = math.sqrt(2 * math.log(2 * max(2, row_length)))
    levels = max(1.0, 2 ** (scheme.weight_bits - 1) - 1)
    error = min(1.0, (largest / levels) ** 2 / 12)
    for share, bits in zip(scheme.shares[1:], scheme.term_bits[1:], strict=True):
        factor = 0.25 if bits == 1 else (2**bits - 1) ** -2.0
        error = error * (1 - share) + error * share * factor
    return error


def relative_activation_error(bits: int | None) -> float:
    """Squared error over squared value of a Gaussian activation quantized per tensor; 0 in float."""
    if bits is None:
        return 0.0
    clip = GAUSSIAN_CLIP.get(bits, ACTIVATION_RANGE + 0.4 * max(0, bits - 8))
    return min(1.0, (2 * clip / (2**bits - 1)) ** 2 / 12)
