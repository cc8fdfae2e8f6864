"""Small networks that use every operator the lowering knows; loaded as FILE.py:factory."""

import torch
from torch import nn
from torch.nn import functional


class Cnn(nn.Module):
    """Strides, borders, depthwise, grouped, pointwise, odd channel counts, residual, pools."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 12, 3, stride=2, padding=1)
        self.depthwise = nn.Conv2d(12, 12, 3, padding=1, groups=12)
        self.point = nn.Conv2d(12, 24, 1)
        self.grouped = nn.Conv2d(24, 24, 3, padding=1, groups=3)
        self.dilated = nn.Conv2d(24, 24, (3, 1), padding=(2, 0), dilation=(2, 1))
        self.down = nn.Conv2d(24, 37, 1, stride=2, bias=False)
        self.head = nn.Linear(37, 11)

    def forward(self, x):
        x = functional.max_pool2d(functional.relu(self.stem(x)), 3, 2, 1)
        x = functional.relu6(self.depthwise(x))
        x = self.point(x)
        x = functional.relu(x + self.grouped(x))
        x = x + self.dilated(x)
        x = functional.relu(self.down(x))
        x = functional.adaptive_avg_pool2d(x, 1).flatten(1)
        return self.head(x)


class Transformer(nn.Module):
    """Patch embedding, class token, two attention blocks, odd token count."""

    def __init__(self, width=32, heads=2):
        super().__init__()
        self.patch = nn.Conv2d(3, width, 8, stride=8)
        self.token = nn.Parameter(torch.randn(1, 1, width) * 0.1)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(2))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 10)

    def forward(self, x):
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x)[:, 0])


class Block(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x):
        b, n, c = x.shape
        qkv = self.qkv(self.norm1(x)).reshape(b, n, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        attention = ((q * 0.25) @ k.transpose(-2, -1)).softmax(-1)
        x = x + self.proj((attention @ v).transpose(1, 2).reshape(b, n, c))
        return x + self.down(functional.gelu(self.up(self.norm2(x))))


class Composed(nn.Module):
    """What is written from simpler kernels: norms over channels, joins, resizing, reductions, a moved softmax."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 12, 3, padding=1)
        self.before = nn.BatchNorm2d(24)
        self.first = nn.Conv2d(24, 12, 1)
        self.groups, self.whole = nn.GroupNorm(4, 12), nn.GroupNorm(1, 12, affine=False)
        self.second = nn.Conv2d(12, 10, 3, stride=2, padding=1)
        self.after, self.head = nn.BatchNorm1d(10), nn.Linear(10, 7)
        for norm in (self.before, self.after):
            norm.running_mean.uniform_(-0.5, 0.5)
            norm.running_var.uniform_(0.5, 2.0)
            nn.init.uniform_(norm.weight, 0.5, 2.0)
            nn.init.uniform_(norm.bias, -0.5, 0.5)

    def forward(self, x):
        x = self.stem(x)
        x = self.first(functional.relu(self.before(torch.cat([x, -x], 1))))
        x = x + self.groups(x) + self.whole(functional.relu(x))
        pooled = functional.avg_pool2d(x, 3, 2, 1, count_include_pad=False)
        x = self.second(x + functional.interpolate(pooled, scale_factor=2, mode="nearest"))
        tokens = x.flatten(2)
        unit = tokens / tokens.norm(dim=-1, keepdim=True).clamp_min(1e-6).expand_as(tokens)
        weights = tokens.softmax(1)
        both = torch.stack([unit, weights], 2)
        return self.head(self.after((both.sum(2) * tokens).sum(-1)))


def composed():
    torch.manual_seed(0)
    return Composed().eval(), (torch.zeros(2, 3, 16, 16),)


def cnn():
    torch.manual_seed(0)
    return Cnn().eval(), (torch.zeros(2, 3, 32, 32),)


def wide_transformer():
    """Deep enough that both products of the attention, 32 and 37 long, run on tensor cores."""
    torch.manual_seed(0)
    return Transformer(64).eval(), (torch.zeros(1, 3, 48, 48),)


def transformer():
    torch.manual_seed(0)
    return Transformer().eval(), (torch.zeros(1, 3, 32, 32),)
