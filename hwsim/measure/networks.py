"""Synthetic networks whose layers, compiled and timed, calibrate a descriptor.

They hold one layer of every kind in sizes spread over what vision and language networks ask for, and none of the
shapes of a network that somebody would want to predict. Layers are timed where they stand, behind and before others,
because that is how caches will be found by the layers of a real network.
"""

from typing import Any

import torch
from torch import Tensor, nn

IMAGE = (1, 3, 208, 208)


def _conv(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups)


class _Residual(nn.Module):
    """Convolutions with an activation between them and the input added to what they give."""

    def __init__(self, *layers: nn.Module, last: nn.Module | None = None) -> None:
        super().__init__()
        self.body = nn.Sequential(*layers)
        self.last = last or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Body plus input."""
        return self.last(self.body(x) + x)


def conv_net() -> tuple[nn.Module, Tensor]:
    """Dense, pointwise, grouped and depthwise convolutions on shrinking images."""
    torch.manual_seed(0)
    relu, relu6 = nn.ReLU, nn.ReLU6
    net = nn.Sequential(
        nn.Sequential(_conv(3, 48, 5, 2), relu()),
        nn.Sequential(_conv(48, 48, 3, 1, 48), relu6(), _conv(48, 20, 1), _conv(20, 112, 1), relu6()),
        nn.Sequential(_conv(112, 112, 3, 2, 112), relu6(), _conv(112, 36, 1)),
        nn.Sequential(_conv(36, 80, 3), relu(), _Residual(_conv(80, 80, 3), relu(), _conv(80, 80, 3), last=relu())),
        nn.MaxPool2d(3, 2, 1),
        nn.Sequential(_conv(80, 144, 3, 2), relu(), nn.Conv2d(144, 208, 1), relu()),
        _Residual(_conv(208, 52, 1), relu(), _conv(52, 52, 3), relu(), _conv(52, 208, 1), last=relu()),
        _Residual(_conv(208, 624, 1), relu6(), _conv(624, 624, 3, 1, 624), relu6(), _conv(624, 208, 1)),
        _Residual(_conv(208, 208, 3, 1, 13), relu(), _conv(208, 208, 1), last=relu()),
        nn.Sequential(_conv(208, 288, 3, 2, 8), relu(), _conv(288, 288, 1), relu()),
        nn.Sequential(_conv(288, 864, 1), relu6(), _conv(864, 864, 3, 2, 864), relu6(), _conv(864, 176, 1)),
        nn.Sequential(_conv(176, 352, 3), relu(), _conv(352, 1100, 1), relu()),
        nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1100, 900)),
    )  # fmt: skip
    return net.eval(), torch.zeros(IMAGE)


class _Attention(nn.Module):
    """Attention of several heads, with an additive table where asked."""

    def __init__(self, width: int, heads: int, tokens: int, additive: bool) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.bias = nn.Parameter(torch.zeros(heads, tokens, tokens)) if additive else None

    def forward(self, x: Tensor) -> Tensor:
        """Tokens to tokens."""
        batch, tokens, width = x.shape
        split = self.qkv(x).reshape(batch, tokens, 3, self.heads, width // self.heads)
        q, k, v = split.permute(2, 0, 3, 1, 4).unbind(0)
        scores = (q * (width // self.heads) ** -0.5) @ k.transpose(-2, -1)
        if self.bias is not None:
            scores = scores + self.bias
        return self.proj((scores.softmax(-1) @ v).transpose(1, 2).reshape(batch, tokens, width))


class _Block(nn.Module):
    """A transformer block, norms first."""

    def __init__(
        self, width: int, heads: int, tokens: int, hidden: int, activation: nn.Module, additive: bool = False
    ) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = _Attention(width, heads, tokens, additive)
        self.fc1, self.act, self.fc2 = nn.Linear(width, hidden), activation, nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """Attention, then the two linear layers, each added to its input."""
        x = x + self.attn(self.norm1(x))
        return x + self.fc2(self.act(self.fc1(self.norm2(x))))


class _TokenNet(nn.Module):
    """Patches, blocks of two widths, windows, a head on one token."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 256, 16, 16)
        self.position = nn.Parameter(torch.zeros(1, 169, 256))
        self.first = _Block(256, 4, 169, 1024, nn.GELU())
        self.window = nn.Sequential(nn.LayerNorm(128), nn.Linear(128, 128))
        self.windows = _Block(128, 4, 36, 512, nn.GELU(), additive=True)
        self.widen = nn.Linear(128, 640)
        self.second = _Block(640, 10, 242, 2560, nn.GELU())
        self.norm, self.head = nn.LayerNorm(640), nn.Linear(640, 1200)

    def forward(self, image: Tensor) -> Tensor:
        """An image to scores."""
        x = self.patch(image).flatten(2).transpose(1, 2) + self.position
        x = self.first(x).reshape(1, 338, 128)
        x = torch.cat([x, x], 1)[:, :468].reshape(13, 36, 128)
        x = self.windows(self.window(x)).reshape(1, 468, 128)[:, :242]
        return self.head(self.norm(self.second(self.widen(x)))[:, 0])


def token_net() -> tuple[nn.Module, Tensor]:
    """Attention and linear layers over image patches, whole and in windows."""
    torch.manual_seed(0)
    return _TokenNet().eval(), torch.zeros(IMAGE)


FACTORIES: dict[str, Any] = {"conv_net": conv_net, "token_net": token_net}
