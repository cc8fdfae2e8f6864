"""What a product multiplies its weight with: rows of inputs, second moments and cross moments of two streams."""
# pyright: basic
# tensor methods are untyped in torch's stubs.

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from quant.model_pass import Product


def input_rows(x: Tensor, product: Product, limit: int) -> Tensor:
    """Inputs of a linear or convolution as (G, N, I), thinned evenly to at most about ``limit`` rows."""
    conv = product.conv
    if conv is None:
        flat = x.reshape(-1, x.shape[-1])
        return flat[:: max(1, len(flat) // limit)].unsqueeze(0)
    share = max(1, limit // len(x))
    rows: list[Tensor] = []
    for number, image in enumerate(x):
        columns = functional.unfold(image[None], conv.kernel, conv.dilation, conv.padding, conv.stride)[0]
        step = max(1, columns.shape[1] // share)
        # a different offset for each image, the same for both streams
        rows.append(
            columns[:, number % step :: step].reshape(
                conv.groups, -1, columns[:, number % step :: step].shape[1]
            )
        )
    return torch.cat(rows, 2).transpose(1, 2)


class Moments:
    """``E[x_q x_q^T]`` and, for asymmetric targets, ``E[x_fp x_q^T]``, summed over batches in float64.

    ``diagonal`` sums the squares of the inputs alone.
    """

    def __init__(self, *, diagonal: bool = False) -> None:
        self.count, self.diagonal = 0, diagonal
        self._own: Tensor | None = None
        self._cross: Tensor | None = None

    def update(self, quantized: Tensor, exact: Tensor | None = None) -> None:
        """Add rows (G, N, I) of the quantized stream and, if wanted, the same rows of the float stream."""
        squares = quantized.square().sum(1) if self.diagonal else quantized.transpose(1, 2) @ quantized
        own = squares.double()
        self._own = own if self._own is None else self._own + own
        if exact is not None:
            cross = (exact.transpose(1, 2) @ quantized).double()
            self._cross = cross if self._cross is None else self._cross + cross
        self.count += quantized.shape[1]

    @property
    def own(self) -> Tensor:
        """Second moment of the quantized inputs (G, I, I), or its diagonal (G, I)."""
        assert self._own is not None, "no rows were added"
        return self._own / self.count

    @property
    def cross(self) -> Tensor | None:
        """``E[x_fp x_q^T]``, or None when no float rows were given."""
        return None if self._cross is None else self._cross / self.count


def sample_values(tensors: Iterable[Tensor], total: int = 1 << 17) -> Tensor:
    """An even sample of all values with the extremes of every tensor among them."""
    items: Sequence[Tensor] = list(tensors)
    share = max(1, total // max(1, len(items)))
    parts: list[Tensor] = []
    for tensor in items:
        flat = tensor.detach().flatten()
        step = flat.numel() // share + 1
        low, high = torch.aminmax(flat)
        parts.append(torch.cat([flat[::step], low[None], high[None]]))
    return torch.cat(parts)
