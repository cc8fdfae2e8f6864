"""Small networks that stand for the families in tests that run the whole way in seconds."""

import torch
from torch import Tensor, nn


class SmallConvNet(nn.Module):
    """Convolution, batch norm, depthwise convolution, a residual addition, pooling and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, 2, 1, bias=False)
        self.norm = nn.BatchNorm2d(16)
        self.depthwise = nn.Conv2d(16, 16, 3, 1, 1, groups=16)
        self.pointwise = nn.Conv2d(16, 16, 1)
        self.head = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.stem(x)))
        x = x + self.pointwise(torch.relu(self.depthwise(x)))
        return self.head(x.mean(dim=(2, 3)))


class SmallTransformer(nn.Module):
    """One pre-norm block with attention over 16 tokens, and a classifier."""

    def __init__(self, dim: int = 32, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.embed = nn.Linear(12, dim)
        self.norm1 = nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.norm2 = nn.LayerNorm(dim)
        self.fc1 = nn.Linear(dim, 2 * dim)
        self.fc2 = nn.Linear(2 * dim, dim)
        self.head = nn.Linear(dim, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        batch, tokens, dim = x.shape
        qkv = self.qkv(self.norm1(x)).reshape(batch, tokens, 3, self.heads, dim // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        mixed = nn.functional.scaled_dot_product_attention(q, k, v)
        x = x + self.proj(mixed.transpose(1, 2).reshape(batch, tokens, dim))
        x = x + self.fc2(nn.functional.gelu(self.fc1(self.norm2(x))))
        return self.head(x.mean(dim=1))


def conv_net() -> tuple[nn.Module, tuple[Tensor]]:
    """Factory as ``--model tests/small_models.py:conv_net`` takes it."""
    torch.manual_seed(0)
    return SmallConvNet().eval(), (torch.randn(1, 3, 32, 32),)


def transformer() -> tuple[nn.Module, tuple[Tensor]]:
    """Factory as ``--model tests/small_models.py:transformer`` takes it."""
    torch.manual_seed(0)
    return SmallTransformer().eval(), (torch.randn(1, 16, 12),)
