"""Networks of the evidence tables that no library ships: CIFAR ResNets, a small post-LN ViT, stories260K.

Each ``*_factory`` function is a model source of its own: ``hwsim plan --model benchmarks/accuracy/networks.py:NAME``.
"""

# ruff: noqa: D102

import json
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

SHARED = Path(__file__).resolve().parents[3] / "shared"


class BasicBlock(nn.Module):
    """He et al. basic block with the parameter-free shortcut (option A)."""

    def __init__(self, width_in, width, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(width_in, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.stride, self.pad = stride, (width - width_in) // 2

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        if self.pad:
            x = functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.pad, self.pad))
        return torch.relu(out + x)


class CifarResNet(nn.Module):
    """ResNet-20/32 for 32x32 images."""

    def __init__(self, depth=20):
        super().__init__()
        blocks = (depth - 2) // 6
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        width = 16
        for stage, out in enumerate((16, 32, 64), 1):
            layers = []
            for index in range(blocks):
                layers.append(BasicBlock(width, out, 2 if stage > 1 and index == 0 else 1))
                width = out
            setattr(self, f"layer{stage}", nn.Sequential(*layers))
        self.linear = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(x.mean((2, 3)))


class PostNormLayer(nn.Module):
    """`nn.TransformerEncoderLayer` (post-LN, ReLU) written out under the same parameter names."""

    def __init__(self, width, heads, hidden):
        super().__init__()
        self.self_attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.linear1, self.linear2 = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.heads = heads

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        attn = self.self_attn
        qkv = functional.linear(x, attn.in_proj_weight, attn.in_proj_bias)
        q, k, v = (
            qkv.reshape(batch, tokens, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        )
        weights = torch.softmax(q * (width // self.heads) ** -0.5 @ k.transpose(-2, -1), -1)
        mixed = (weights @ v).transpose(1, 2).reshape(batch, tokens, width)
        x = self.norm1(x + attn.out_proj(mixed))
        return self.norm2(x + self.linear2(torch.relu(self.linear1(x))))


class CifarViT(nn.Module):
    """Post-LN ViT for CIFAR-10 with a class token; parts are named as in the checkpoint."""

    def __init__(self):
        super().__init__()
        width = 128
        self.patch_embed = nn.Module()
        self.patch_embed.proj = nn.Conv2d(3, width, 4, 4)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 65, width))
        self.transformer = nn.Module()
        self.transformer.layers = nn.ModuleList(PostNormLayer(width, 8, 256) for _ in range(6))
        self.mlp_head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 10))

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch_embed.proj(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1) + self.pos_embed
        for layer in self.transformer.layers:
            x = layer(x)
        return self.mlp_head(x[:, 0])


def _load(model: nn.Module, name: str) -> nn.Module:
    model.load_state_dict(load_file(SHARED / "data" / "models" / name), strict=True)
    return model.eval()


def cifar10_resnet20():
    """The published CIFAR-10 ResNet-20 with live batch norm, and its example input."""
    return _load(CifarResNet(20), "cifar10_resnet20.safetensors"), (torch.zeros(1, 3, 32, 32),)


def cifar10_vit():
    """The CIFAR-10 post-LN ViT and its example input."""
    return _load(CifarViT(), "cifar10_vit.safetensors"), (torch.zeros(1, 3, 32, 32),)


def stories260k():
    """The 260K-parameter LLaMA, eager attention, logits only."""
    from hwsim.model.torchvision_shim import declare_missing_operators

    declare_missing_operators()
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = SHARED / "data" / "models"
    config = LlamaConfig(**json.loads((folder / "stories260k_config.json").read_text()))
    config._attn_implementation = "eager"
    config.use_cache = False
    model = LlamaForCausalLM(config)
    state = load_file(folder / "stories260k.safetensors")
    model.load_state_dict(state, strict=False)
    model.tie_weights()
    return LogitsOnly(model).eval(), (torch.zeros(1, 256, dtype=torch.int64),)


class LogitsOnly(nn.Module):
    """A causal language model that returns its logits."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor) -> Tensor:
        return self.model(input_ids=ids, use_cache=False).logits
