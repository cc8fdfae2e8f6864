"""Factories the model tests load through ``file.py:function``; kept free of hwsim imports like a user's own file."""

import torch
from torch import nn


class EinsumAttention(nn.Module):
    """Attention written with einsum, an explicit mask and an in-place addition."""

    def __init__(self, width=32, heads=4):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.register_buffer("mask", torch.full((9, 9), float("-inf")).triu(1))

    def forward(self, x):
        b, n, c = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        scores = torch.einsum("bhnd,bhmd->bhnm", q, k) * (c // self.heads) ** -0.5 + self.mask
        y = torch.einsum("bhnm,bhmd->bhnd", scores.softmax(-1), v)
        y = y.transpose(1, 2).reshape(b, n, c)
        x += self.proj(y)
        return x


def einsum_attention(width=32):
    torch.manual_seed(0)
    return EinsumAttention(width), (torch.randn(1, 9, width),)


class StoredMatrices(nn.Module):
    """Weights in the spellings of papers: einsum, as the left operand, transposed, with an axis of one."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Parameter(torch.randn(12, 16) / 4), nn.Parameter(torch.randn(20, 16) / 4)
        self.heads, self.mix = nn.Parameter(torch.randn(20, 2, 6) / 4), nn.Parameter(torch.randn(9, 9) / 3)
        self.row, self.last = nn.Parameter(torch.randn(1, 12, 8) / 4), nn.Parameter(torch.randn(8, 8) / 3)

    def forward(self, x):
        x = torch.einsum("bnc,cd->bnd", x, self.a).relu()
        x = torch.einsum("ed,bnd->bne", self.b, x)
        x = torch.einsum("bne,ehd->bnhd", x, self.heads).flatten(2).relu()
        x = self.mix @ x
        x = torch.matmul(x, self.row)
        return nn.functional.linear(x, self.last.t())


def stored_matrices():
    torch.manual_seed(0)
    return StoredMatrices(), (torch.randn(2, 9, 12),)


class Oddities(nn.Module):
    """String padding, a 1-d convolution, a pre-activation batch norm, shared weights, writes into a slice."""

    def __init__(self):
        super().__init__()
        self.even = nn.Conv2d(3, 8, 4, padding="same")
        self.odd = nn.Conv2d(8, 8, 3, padding="same", dilation=2, groups=4)
        self.pre = nn.BatchNorm2d(8)
        self.shared = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.first, self.second = nn.BatchNorm2d(8), nn.BatchNorm2d(8)
        self.line = nn.Conv1d(8, 6, 3, padding=1, stride=2)
        self.head, self.norm = nn.Linear(6, 5, bias=False), nn.BatchNorm1d(5)

    def forward(self, x):
        x = torch.relu(self.odd(self.even(x)))
        x = torch.relu_(self.pre(x))
        x = self.first(self.shared(x)) + self.second(self.shared(x.flip(-1)))
        x = x.clone()
        x[:, :2] = x[:, :2] * 0.5
        x = self.line(x.flatten(2)).mean(-1)
        return self.norm(self.head(x)) @ torch.eye(5, dtype=x.dtype)


def oddities():
    torch.manual_seed(0)
    return Oddities(), (torch.randn(2, 3, 9, 9),)


def encoder():
    """nn.TransformerEncoder, whose fused inference path must not hide its products."""
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), (torch.randn(1, 7, 32),)


class CifarViT(nn.Module):
    def __init__(self):
        super().__init__()
        self.patch_embed = nn.Module()
        self.patch_embed.proj = nn.Conv2d(3, 128, 4, 4)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, 128))
        self.pos_embed = nn.Parameter(torch.zeros(1, 65, 128))
        layer = nn.TransformerEncoderLayer(128, 8, 256, batch_first=True)
        self.transformer = nn.TransformerEncoder(layer, 6, enable_nested_tensor=False)
        self.mlp_head = nn.Sequential(nn.LayerNorm(128), nn.Linear(128, 10))

    def forward(self, x):
        x = self.patch_embed.proj(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), x], 1) + self.pos_embed
        return self.mlp_head(self.transformer(x)[:, 0])


class CifarBlock(nn.Module):
    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.stride, self.pad = stride, (outputs - inputs) // 2

    def forward(self, x):
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        if self.pad or self.stride > 1:
            x = nn.functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.pad, self.pad))
        return torch.relu(y + x)


class CifarResNet(nn.Module):
    def __init__(self, depth):
        super().__init__()
        blocks = (depth - 2) // 6
        self.conv1, self.bn1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16)
        inputs = 16
        for stage, width in enumerate((16, 32, 64), 1):
            parts = []
            for index in range(blocks):
                parts.append(CifarBlock(inputs, width, 2 if stage > 1 and index == 0 else 1))
                inputs = width
            setattr(self, f"layer{stage}", nn.Sequential(*parts))
        self.linear = nn.Linear(64, 10)

    def forward(self, x):
        x = torch.relu(self.bn1(self.conv1(x)))
        return self.linear(self.layer3(self.layer2(self.layer1(x))).mean((2, 3)))


def cifar_resnet(depth=20):
    torch.manual_seed(0)
    return CifarResNet(depth), (torch.zeros(1, 3, 32, 32),)


def cifar_vit():
    torch.manual_seed(0)
    return CifarViT(), (torch.zeros(1, 3, 32, 32),)


def wrong_type():
    return "not a module"


def branching():
    class Branching(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    return Branching(), (torch.ones(1, 2),)
