"""Small networks of every topology the methods meet, loaded like any model (seeded weights, seconds to export)."""

from functools import cache
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F


class Attention(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.qkv, self.proj, self.heads = nn.Linear(width, 3 * width), nn.Linear(width, width), heads

    def forward(self, x):
        b, t, w = x.shape
        q, k, v = self.qkv(x).reshape(b, t, 3, self.heads, w // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        weights = torch.softmax(q * (w // self.heads) ** -0.5 @ k.transpose(-2, -1), -1)
        return self.proj((weights @ v).transpose(1, 2).reshape(b, t, w))


class PreNorm(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(6, 16)
        self.norm1, self.norm2, self.norm = nn.LayerNorm(16), nn.LayerNorm(16), nn.LayerNorm(16)
        self.attn = Attention(16, 2)
        self.fc1, self.fc2, self.head = nn.Linear(16, 32), nn.Linear(32, 16), nn.Linear(16, 5)

    def forward(self, x):
        x = self.embed(x)
        x = x + self.attn(self.norm1(x))
        x = x + self.fc2(F.gelu(self.fc1(self.norm2(x))))
        return self.head(self.norm(x)[:, 0])


class Paired(PreNorm):
    """Returns a tuple of logits and hidden states."""

    def forward(self, x):
        hidden = self.norm(self.embed(x))
        return self.head(self.fc2(torch.relu(self.fc1(hidden)))), hidden


class PostNorm(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(6, 16)
        self.attn = Attention(16, 2)
        self.norm1, self.norm2 = nn.LayerNorm(16), nn.LayerNorm(16)
        self.fc1, self.fc2 = nn.Linear(16, 32), nn.Linear(32, 16)
        self.attn2, self.head = Attention(16, 2), nn.Linear(16, 5)

    def forward(self, x):
        x = self.embed(x)
        x = self.norm1(x + self.attn(x))
        x = self.norm2(x + self.fc2(torch.relu(self.fc1(x))))
        return self.head((x + self.attn2(x)).mean(1))


class Gated(nn.Module):
    """RMSNorm, gated MLP, two linears without bias behind one norm, parallel attention and MLP."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(6, 16)
        self.norm = nn.RMSNorm(16, eps=1e-5)
        self.gate, self.up = nn.Linear(16, 24, bias=False), nn.Linear(16, 24, bias=False)
        self.down, self.head = nn.Linear(24, 16, bias=False), nn.Linear(16, 5)
        self.attn = Attention(16, 2)

    def forward(self, x):
        x = self.embed(x)
        y = self.norm(x)
        return self.head((x + self.attn(y) + self.down(F.silu(self.gate(y)) * self.up(y))).mean(1))


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.bn0 = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.a, self.bn1 = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.depthwise, self.bn2 = nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False), nn.BatchNorm2d(8)
        self.b, self.bn3 = nn.Conv2d(8, 12, 3, 2, 1, bias=False), nn.BatchNorm2d(12)
        self.head = nn.Linear(12, 5)

    def forward(self, x):
        x = torch.relu(self.bn0(self.stem(x)))
        x = torch.relu(x + self.bn2(self.depthwise(torch.relu(self.bn1(self.a(x))))))
        return self.head(torch.relu(self.bn3(self.b(x))).mean((2, 3)))


class TokensFirst(nn.Module):
    """torch's own encoder with tokens in front and samples behind them."""

    def __init__(self):
        super().__init__()
        self.embed, self.attn = nn.Linear(6, 16), nn.MultiheadAttention(16, 2)
        self.norm, self.fc, self.head = nn.LayerNorm(16), nn.Linear(16, 16), nn.Linear(16, 5)

    def forward(self, x):
        x = self.embed(x.transpose(0, 1))
        x = x + self.attn(x, x, x, need_weights=False)[0]
        x = x + torch.relu(self.fc(self.norm(x)))
        return self.head(x.transpose(0, 1)[:, 0])


class InOneRow(nn.Module):
    """Lays the tokens of all samples in one row for its linear layers, as some language models do."""

    def __init__(self):
        super().__init__()
        self.embed, self.norm = nn.Linear(6, 16), nn.LayerNorm(16)
        self.fc1, self.fc2, self.head = nn.Linear(16, 32), nn.Linear(32, 16), nn.Linear(16, 5)

    def forward(self, x):
        b, t, _ = x.shape
        x = self.embed(x.reshape(-1, 6)).reshape(b, t, 16)
        row = self.fc1(self.norm(x).reshape(-1, 16))
        x = x + self.fc2(torch.relu(row)).reshape(b, t, 16)
        return self.head(x.mean(1))


class Queries(nn.Module):
    """Learned queries, the first product of the graph, look at the tokens."""

    def __init__(self):
        super().__init__()
        self.queries = nn.Parameter(torch.randn(5, 16))
        self.ask, self.key, self.value, self.head = (nn.Linear(n, 16) for n in (16, 6, 6, 16))

    def forward(self, x):
        weights = torch.softmax(self.ask(self.queries) @ self.key(x).transpose(1, 2) / 4, -1)
        return self.head(weights @ self.value(x)).mean(1)


def _seeded(kind):
    torch.manual_seed(0)
    model = kind()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.LayerNorm | nn.RMSNorm):
                module.weight.copy_(torch.rand(module.weight.shape) * 2 + 0.2)
                module.weight[::5] *= 6
                if getattr(module, "bias", None) is not None:
                    module.bias.copy_(torch.randn(module.bias.shape))
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.copy_(torch.randn(module.running_mean.shape) * 0.2)
                module.running_var.copy_(torch.rand(module.running_var.shape) + 0.5)
                module.weight.copy_(torch.rand(module.weight.shape) + 0.5)
                module.bias.copy_(torch.randn(module.bias.shape) * 0.3)
        model.head.weight.mul_(4)
    return model.eval()


KINDS = {"pre_norm": PreNorm, "paired": Paired, "post_norm": PostNorm, "gated": Gated, "residual": Residual}
KINDS |= {"tokens_first": TokensFirst, "in_one_row": InOneRow, "queries": Queries}


def pre_norm():
    return _seeded(PreNorm), (torch.zeros(1, 7, 6),)


def paired():
    return _seeded(Paired), (torch.zeros(1, 7, 6),)


def post_norm():
    return _seeded(PostNorm), (torch.zeros(1, 7, 6),)


def gated():
    return _seeded(Gated), (torch.zeros(1, 7, 6),)


def tokens_first():
    return _seeded(TokensFirst), (torch.zeros(1, 7, 6),)


def in_one_row():
    return _seeded(InOneRow), (torch.zeros(1, 7, 6),)


def queries():
    return _seeded(Queries), (torch.zeros(1, 7, 6),)


def residual():
    return _seeded(Residual), (torch.zeros(1, 3, 10, 10),)


def eager(name):
    return _seeded(KINDS[name])


@cache
def loaded(name, batch=8):
    """Exported graph module with layer names; treat as read-only."""
    from hwsim.model.load import load_model

    return load_model(f"{Path(__file__).resolve()}:{name}", batch=batch).module


def batches(name, count=6, batch=8, seed=1):
    shape = (3, 10, 10) if name == "residual" else (7, 6)
    g = torch.Generator().manual_seed(seed)
    return [(torch.randn(batch, *shape, generator=g),) for _ in range(count)]
