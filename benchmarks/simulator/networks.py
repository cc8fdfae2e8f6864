"""Networks of the measured tables that hwsim has no short name for, as factories for ``FILE.py:FUNCTION``."""

import itertools

import torch
from torch import nn

from hwsim.model.torchvision_shim import declare_missing_operators

declare_missing_operators()


def googlenet() -> nn.Module:
    """Torchvision's GoogLeNet without its auxiliary heads."""
    from torchvision.models import googlenet as build

    return build(weights=None, aux_logits=False, transform_input=False, init_weights=False).eval()


def squeezenet1_1() -> nn.Module:
    """Torchvision's SqueezeNet 1.1."""
    from torchvision.models import squeezenet1_1 as build

    return build(weights=None).eval()


class _Residual(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1)
        self.skip = nn.Conv2d(inputs, outputs, 1, stride) if stride > 1 else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """One batch."""
        return torch.relu(self.skip(x) + self.conv2(torch.relu(self.conv1(x))))


class ImageClassification(nn.Module):
    """MLPerf Tiny ``ic``: ResNet-8 on 32 x 32 x 3."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 16, 3, 1, 1), nn.ReLU(), _Residual(16, 16, 1), _Residual(16, 32, 2), _Residual(32, 64, 2),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10),
        )  # fmt: skip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """One batch."""
        return self.body(x)


class KeywordSpotting(nn.Module):
    """MLPerf Tiny ``kws``: DS-CNN on 49 x 10."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(1, 64, (10, 4), 2, (4, 1)), nn.ReLU()]
        for _ in range(4):
            layers += [nn.Conv2d(64, 64, 3, 1, 1, groups=64), nn.ReLU(), nn.Conv2d(64, 64, 1), nn.ReLU()]
        self.body = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 12))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """One batch."""
        return self.body(x)


class AnomalyDetection(nn.Module):
    """MLPerf Tiny ``ad``: dense autoencoder 640-128x4-8-128x4-640."""

    def __init__(self) -> None:
        super().__init__()
        sizes = [640, 128, 128, 128, 128, 8, 128, 128, 128, 128, 640]
        layers: list[nn.Module] = []
        for inputs, outputs in itertools.pairwise(sizes):
            layers += [nn.Linear(inputs, outputs), nn.ReLU()]
        self.body = nn.Sequential(*layers[:-1])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """One batch."""
        return self.body(x)


def ic() -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    """MLPerf Tiny image classification with its input."""
    return ImageClassification().eval(), (torch.zeros(1, 3, 32, 32),)


def kws() -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    """MLPerf Tiny keyword spotting with its input."""
    return KeywordSpotting().eval(), (torch.zeros(1, 1, 49, 10),)


def ad() -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    """MLPerf Tiny anomaly detection with its input."""
    return AnomalyDetection().eval(), (torch.zeros(1, 640),)


def _resnet_299(name: str) -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    from torchvision.models import get_model

    return get_model(name, weights=None).eval(), (torch.zeros(1, 3, 299, 299),)


def resnet50_299() -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    """ResNet-50 on images of 299 x 299, as Coral's table has it."""
    return _resnet_299("resnet50")


def resnet152_299() -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    """ResNet-152 on images of 299 x 299."""
    return _resnet_299("resnet152")


class _RetinaNet(nn.Module):
    """Backbone, feature pyramid and heads of MLPerf's RetinaNet; boxes are chosen on the host."""

    CLASSES, ANCHORS, WIDTH = 264, 9, 256

    def __init__(self) -> None:
        super().__init__()
        from torchvision.models import resnext50_32x4d

        net = resnext50_32x4d(weights=None)
        self.stem = nn.Sequential(net.conv1, net.bn1, net.relu, net.maxpool, net.layer1)
        self.stages = nn.ModuleList([net.layer2, net.layer3, net.layer4])
        width = self.WIDTH
        self.lateral = nn.ModuleList([nn.Conv2d(inputs, width, 1) for inputs in (512, 1024, 2048)])
        self.smooth = nn.ModuleList([nn.Conv2d(width, width, 3, 1, 1) for _ in range(3)])
        self.coarser = nn.ModuleList([nn.Conv2d(inputs, width, 3, 2, 1) for inputs in (2048, width)])
        self.heads = nn.ModuleList([self._head(self.ANCHORS * self.CLASSES), self._head(self.ANCHORS * 4)])

    def _head(self, outputs: int) -> nn.Sequential:
        layers: list[nn.Module] = []
        for _ in range(4):
            layers += [nn.Conv2d(self.WIDTH, self.WIDTH, 3, 1, 1), nn.ReLU()]
        return nn.Sequential(*layers, nn.Conv2d(self.WIDTH, outputs, 3, 1, 1))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """One image to the scores and boxes of five levels."""
        x, found = self.stem(x), []
        for stage in self.stages:
            x = stage(x)
            found.append(x)
        above = self.lateral[2](found[2])
        levels = [self.smooth[2](above)]
        for index in (1, 0):
            above = self.lateral[index](found[index]) + nn.functional.interpolate(above, scale_factor=2.0)
            levels.append(self.smooth[index](above))
        sixth = self.coarser[0](found[2])
        levels += [sixth, self.coarser[1](torch.relu(sixth))]
        return tuple(head(level) for level in levels for head in self.heads)


def retinanet() -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    """MLPerf Inference's RetinaNet, ResNeXt-50 on 800 x 800."""
    return _RetinaNet().eval(), (torch.zeros(1, 3, 800, 800),)


def bert_large_256() -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    """MLPerf Inference's BERT-large without its two-column head, on 256 of 384 tokens.

    NVIDIA's submissions leave the padding out, and a SingleStream result is the ninetieth percentile; that nine of ten
    of SQuAD's questions with their paragraphs have at most about 256 tokens is recalled, unverified.
    """
    from transformers import BertConfig, BertModel

    config = BertConfig(
        hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096
    )
    return BertModel(config, add_pooling_layer=False).eval(), (torch.zeros(1, 256, dtype=torch.long),)


def _deployed(name: str, size: int = 224) -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    """A network as it is deployed: branches that only training needs are merged into one convolution."""
    import timm
    from timm.utils.model import reparameterize_model

    module = reparameterize_model(timm.create_model(name, pretrained=False).eval())
    return module.eval(), (torch.zeros(1, 3, size, size),)


def fastvit_sa12() -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    """FastViT-SA12 with merged branches on 224 x 224, as Hailo's table has it."""
    return _deployed("fastvit_sa12")


def repvgg_a2() -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    """RepVGG-A2 with merged branches."""
    return _deployed("repvgg_a2")


def repghost_2_0x() -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    """RepGhostNet 2.0x with merged branches."""
    return _deployed("repghostnet_200")


def levit128() -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    """LeViT-128 with its batch norms in the products before them."""
    return _deployed("levit_128")


def levit256() -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    """LeViT-256 with its batch norms in the products before them."""
    return _deployed("levit_256")


def efficientnet_lite3_280() -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    """EfficientNet-Lite3 on 280 x 280, as Hailo's table has it."""
    return _deployed("efficientnet_lite3", size=280)


def fastvit_t8() -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    """FastViT-T8 with merged branches on 256 x 256."""
    return _deployed("fastvit_t8", size=256)


def fastvit_t12() -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    """FastViT-T12 with merged branches on 256 x 256."""
    return _deployed("fastvit_t12", size=256)


def fastvit_s12() -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    """FastViT-S12 with merged branches on 256 x 256."""
    return _deployed("fastvit_s12", size=256)


def fastvit_sa24() -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    """FastViT-SA24 with merged branches on 256 x 256."""
    return _deployed("fastvit_sa24", size=256)


def fastvit_sa36() -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    """FastViT-SA36 with merged branches on 256 x 256."""
    return _deployed("fastvit_sa36", size=256)


def fastvit_ma36() -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    """FastViT-MA36 with merged branches on 256 x 256."""
    return _deployed("fastvit_ma36", size=256)


def fastvit_sa12_256() -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    """FastViT-SA12 on 256 x 256, as Apple's table has it."""
    return _deployed("fastvit_sa12", size=256)
