"""RepQuant's scale reparameterization: calibrate a norm's output per channel, run it with one scale.

For channel-wise scales s, zero points z and targets s~, z~ let ``r1 = s / s~`` and ``r2 = z - z~``. Then

    gamma' = gamma / r1     beta' = (beta + s r2) / r1     W'[:, d] = W[:, d] r1[d]     c' = c - W (s r2)

leave the function of norm and linear unchanged, and the layer-wise codes of ``X' = (X + s r2) / r1`` equal
the channel-wise codes of X, element for element, because z~ is an integer. (The authors' code keeps the
fractional mean of z; then codes differ. `target_zero="fractional"` reproduces that for comparison.)
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from quant.errors import QuantError

TargetScale = Literal["mean", "geometric", "pow2"]
SCALE_FLOOR = 1e-6  # times the mean scale: a dead channel must not make r1 zero


@dataclass(frozen=True)
class Reparameterization:
    """Channel-wise factors that turn a channel-wise quantizer into the layer-wise ``(scale, zero)``."""

    ratio: Tensor  # r1 (D,)
    shift: Tensor  # s * r2 (D,)
    scale: float
    zero: float  # an integer unless the fractional compatibility mode was asked for

    @property
    def ratio_range(self) -> tuple[float, float]:
        """Smallest and largest r1: how much harder the weights became."""
        return float(self.ratio.min()), float(self.ratio.max())


def channel_to_layer(
    scale: Tensor,
    zero: Tensor,
    bits: int,
    *,
    target: TargetScale = "mean",
    target_zero: Literal["integer", "fractional"] = "integer",
    shiftable: bool = True,
) -> Reparameterization:
    """Factors for channel scales and zeros; ``shiftable=False`` (RMSNorm without beta) keeps z~ = z."""
    if bool((scale < 0).any()) or not bool(torch.isfinite(scale).all()):
        raise QuantError("layer_norm_reparam: channel scales must be finite and not negative")
    wide = scale.double()
    if not bool((wide > 0).any()):
        wide = torch.ones_like(wide)
    wide = wide.clamp_min(SCALE_FLOOR * float(wide.mean()))
    if target == "geometric":
        goal = float(wide.log().mean().exp())
    else:
        goal = float(wide.mean())
        if target == "pow2":
            goal = 2.0 ** round(float(torch.tensor(goal).log2()))
    zeros = zero.double()
    if not shiftable:
        if bool((zeros != zeros[0]).any()):
            raise QuantError(
                "layer_norm_reparam: a norm without bias needs one common zero point: "
                "use a symmetric activation grid or add a bias to the norm"
            )
        middle = float(zeros[0])
    elif target_zero == "fractional":
        middle = float(zeros.mean())
    else:
        middle = float(torch.clamp(torch.round(zeros.mean()), 0, 2**bits - 1))
    return Reparameterization(wide / goal, wide * (zeros - middle), goal, middle)


def fold_into_norm(
    gamma: Tensor, beta: Tensor | None, rep: Reparameterization
) -> tuple[Tensor, Tensor | None]:
    """New affine parameters of the norm; beta stays None when nothing is shifted and none was there."""
    ratio, shift = rep.ratio.to(gamma.device), rep.shift.to(gamma.device)
    new_gamma = (gamma.double() / ratio).to(gamma.dtype)
    if beta is None and not bool((shift != 0).any()):
        return new_gamma, None
    old_beta = torch.zeros_like(gamma) if beta is None else beta
    return new_gamma, ((old_beta.double() + shift) / ratio).to(gamma.dtype)


def fold_into_consumer(
    weight: Tensor, bias: Tensor | None, rep: Reparameterization
) -> tuple[Tensor, Tensor | None]:
    """New weight (O, D) and bias of a linear that reads the norm; created bias where the shift needs one."""
    wide = weight.double()
    new_weight = (wide * rep.ratio).to(weight.dtype)
    if not bool((rep.shift != 0).any()):
        return new_weight, bias
    old = torch.zeros(weight.shape[0], dtype=torch.float64) if bias is None else bias.double()
    return new_weight, (old - wide @ rep.shift).to(weight.dtype)


def map_forward(normed: Tensor, rep: Reparameterization) -> Tensor:
    """``X' = (X + s r2) / r1`` on the last axis."""
    return ((normed.double() + rep.shift) / rep.ratio).to(normed.dtype)


def map_back(reparameterized: Tensor, rep: Reparameterization) -> Tensor:
    """``X = r1 X' - s r2``: what a post-LN residual path applies to keep reading the old values."""
    return (reparameterized.double() * rep.ratio - rep.shift).to(reparameterized.dtype)


def refuse_tied(name: str, parameter: Tensor, others: dict[str, Tensor]) -> None:
    """Refuse to scale a weight that another layer shares (a tied embedding would change with it)."""
    for other, tensor in others.items():
        same = tensor is not parameter and tensor.data_ptr() == parameter.data_ptr()
        if other != name and (same or tensor is parameter):
            raise QuantError(
                f"layer_norm_reparam, {name}: its weight is tied to {other}: "
                "untie them first or leave this norm out"
            )
