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


def long_headed_transformer():
    torch.manual_seed(0)
    return Transformer(128).eval(), (torch.zeros(1, 3, 32, 32),)


def transformer():
    torch.manual_seed(0)
    return Transformer().eval(), (torch.zeros(1, 3, 32, 32),)


class Decoder(nn.Module):
    """A language model's block: RMS norms, rotary positions, grouped queries, a causal mask, a gated MLP."""

    def __init__(self, width=32, heads=4, groups=2):
        super().__init__()
        self.heads, self.groups, self.size = heads, groups, width // heads
        self.words = nn.Embedding(50, width)
        self.before, self.between = nn.RMSNorm(width), nn.RMSNorm(width)
        self.q, self.kv = nn.Linear(width, width, bias=False), nn.Linear(width, 2 * groups * self.size)
        self.out = nn.Linear(width, width)
        self.gate, self.up, self.down = nn.Linear(width, 56), nn.Linear(width, 56), nn.Linear(56, width)
        self.head = nn.Linear(width, 50, bias=False)

    def turned(self, x):
        angles = torch.arange(x.shape[2])[:, None] / 100 ** (torch.arange(0, self.size, 2) / self.size)
        cosine, sine = (torch.cat([f, f], -1) for f in (angles.cos(), angles.sin()))
        left, right = x.chunk(2, -1)
        return x * cosine + torch.cat([-right, left], -1) * sine

    def forward(self, tokens):
        x = self.words(tokens)
        b, n, _ = x.shape
        y = self.before(x)
        q = self.q(y).view(b, n, self.heads, -1).transpose(1, 2)
        k, v = self.kv(y).view(b, n, 2, self.groups, -1).permute(2, 0, 3, 1, 4).unbind(0)
        mixed = functional.scaled_dot_product_attention(
            self.turned(q), self.turned(k), v, is_causal=True, enable_gqa=True
        )
        x = x + self.out(mixed.transpose(1, 2).reshape(b, n, -1))
        y = self.between(x)
        return self.head(x + self.down(functional.silu(self.gate(y)) * self.up(y)))


class Pyramid(nn.Module):
    """A segmentation head: windows as columns, smooth resizing, pixels in phases, a transposed convolution."""

    def __init__(self):
        super().__init__()
        self.stem, self.patches = nn.Conv2d(3, 12, 3, stride=2, padding=1), nn.Linear(48, 16)
        self.wide, self.up = nn.Conv2d(16, 12, 1), nn.ConvTranspose2d(12, 8, 4, stride=2, padding=1)
        self.head = nn.Conv2d(8, 5, 3, padding=1, padding_mode="reflect")

    def forward(self, x):
        x = functional.leaky_relu(self.stem(x))
        columns = functional.unfold(x, 2, stride=2).transpose(1, 2)
        small = functional.softplus(self.patches(columns)).transpose(1, 2).unflatten(2, (4, 4))
        x = x + functional.interpolate(self.wide(small), x.shape[2:], mode="bilinear")
        x = x + functional.interpolate(functional.adaptive_avg_pool2d(x, 3), x.shape[2:], mode="bicubic")
        return self.head(functional.elu(self.up(x)))


class Reread(nn.Module):
    """Sums whose operands are read again: by a later layer, by the caller, twice by one sum."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.third = (nn.Linear(24, 24) for _ in range(3))

    def forward(self, x):
        x = functional.gelu(x)
        y = x + self.first(x)
        z = y + self.second(x)
        return z, z + z * self.third(y)


def reread():
    torch.manual_seed(0)
    return Reread().eval(), (torch.randn(5, 24),)


class Bottleneck(nn.Module):
    """Residual sums that are most of what lives at a time."""

    def __init__(self):
        super().__init__()
        self.downs = nn.ModuleList(nn.Linear(96, 8) for _ in range(3))
        self.ups = nn.ModuleList(nn.Linear(8, 96) for _ in range(3))

    def forward(self, x):
        x = functional.gelu(x)
        for down, up in zip(self.downs, self.ups, strict=True):
            x = x + up(functional.relu(down(x)))
        return x


def bottleneck():
    torch.manual_seed(0)
    return Bottleneck().eval(), (torch.randn(50, 96),)


class Widths(nn.Module):
    """Convolutions deep enough for tile registers: with a border, with steps of two, of one place, in groups."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 64, 3, padding=1)
        self.same, self.narrow = nn.Conv2d(64, 64, 3, padding=1), nn.Conv2d(64, 96, 3, stride=2, padding=1)
        self.point, self.side = nn.Conv2d(96, 128, 1), nn.Conv2d(64, 128, 1, stride=2)
        self.paired = nn.Conv2d(128, 128, 3, padding=1, groups=2)
        self.apart = nn.Conv2d(128, 72, 3, padding=2, dilation=2)

    def forward(self, x):
        x = self.stem(x).relu()
        x = self.same(x).relu() + x
        x = (self.point(self.narrow(x).relu()) + self.side(x)).relu()
        return self.apart(self.paired(x).relu()).mean((2, 3))


def widths():
    torch.manual_seed(0)
    return Widths().eval(), (torch.zeros(1, 3, 21, 19),)


def decoder():
    torch.manual_seed(0)
    return Decoder().eval(), (torch.randint(0, 50, (2, 7)),)


def pyramid():
    torch.manual_seed(0)
    return Pyramid().eval(), (torch.zeros(2, 3, 16, 16),)
