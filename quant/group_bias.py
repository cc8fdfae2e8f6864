"""A bias for each of a few groups of positions, beside the one of the layer (quant/methods/position_groups.py)."""
# pyright: basic
# tensor methods are untyped in torch's stubs.

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class GroupBias:
    """What groups of positions get on top of the layer's bias; the positions are all axes but sample and channel."""

    labels: Tensor  # int64, shaped like the positions; 0: the layer's bias alone
    values: Tensor  # float32 (groups - 1, channels)

    def masks(self) -> list[Tensor]:
        """For each group but 0, float32 1 at its positions, with an axis for the channels."""
        return [(self.labels == g).to(torch.float32).unsqueeze(-1) for g in range(1, len(self.values) + 1)]

    def table(self) -> Tensor:
        """The sum over groups, shaped like the output of one sample."""
        return torch.cat([torch.zeros_like(self.values[:1]), self.values])[self.labels]
