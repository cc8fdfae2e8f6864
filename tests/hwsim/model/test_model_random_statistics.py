"""Statistics of batch norms under random weights: images the norms have not seen come out as large as those seen."""

import pytest
import torch
from torch import nn

from hwsim.model.random_statistics import set_batch_statistics
from quant.observe import natural


class Pooled(nn.Module):
    """Convolutions, a global pool, and a norm that sees one value an image and channel."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 64, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU())
        self.head = nn.Sequential(nn.BatchNorm1d(64), nn.Linear(64, 10))

    def forward(self, x):
        return self.head(self.body(x).mean((2, 3)))


class Tokens(nn.Module):
    """Self-attention whose outputs are normed over all tokens, several times over."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 8, 8)
        self.mixes = nn.ModuleList(nn.Linear(32, 32, bias=False) for _ in range(6))
        self.norms = nn.ModuleList(nn.BatchNorm1d(32) for _ in range(6))

    def forward(self, x):
        x = self.stem(x).flatten(2).transpose(1, 2)
        for mix, norm in zip(self.mixes, self.norms, strict=True):
            mixed = mix((x @ x.transpose(1, 2) / 32**0.5).softmax(-1) @ x)
            x = x + norm(mixed.flatten(0, 1)).reshape_as(mixed)
        return x


def test_brighter_and_smoother_images_do_not_blow_up():
    torch.manual_seed(0)
    module = Pooled().eval()
    set_batch_statistics(module, (torch.randn(1, 3, 64, 64),), seed=0)
    with torch.no_grad():
        assert 0.1 < float(module(1 + 0.3 * torch.randn(8, 3, 64, 64)).std()) < 2


def test_norms_over_tokens_only_scale():
    torch.manual_seed(0)
    module = Tokens().eval()
    example = torch.randn(4, 3, 64, 64)
    set_batch_statistics(module, (example,), seed=0)
    seen = []
    for norm in module.norms:
        assert not bool(norm.running_mean.any())
        assert len(norm.running_var.unique()) == 1
        norm.register_forward_hook(lambda _, __, output: seen.append(float(output.square().mean())))
    with torch.no_grad():
        module(natural(example))
    assert seen == pytest.approx([1.0] * 6, rel=0.5)


def test_norms_of_feature_maps_see_mean_0_and_variance_1():
    torch.manual_seed(0)
    module = Pooled().eval()
    set_batch_statistics(module, (torch.randn(1, 3, 64, 64),), seed=0)
    with torch.no_grad():
        found = module.body[:2](torch.randn(8, 3, 64, 64))
    torch.testing.assert_close(found.mean((0, 2, 3)), torch.zeros(64), atol=0.1, rtol=0)
    torch.testing.assert_close(found.std((0, 2, 3)), torch.ones(64), atol=0.1, rtol=0)
