"""Networks whose norms or whose missing norms the tests of the methods rest on."""

import torch
from torch import nn


class Convolutions(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.norm1 = nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16)
        self.depthwise, self.norm2 = nn.Conv2d(16, 16, 3, padding=1, groups=16), nn.BatchNorm2d(16)
        self.pointwise, self.norm3 = nn.Conv2d(16, 16, 1), nn.BatchNorm2d(16)
        self.last, self.head = nn.Conv2d(16, 8, 1), nn.Linear(8, 5)

    def forward(self, x):
        x = torch.relu(self.norm1(self.stem(x)))
        x = x + self.norm3(self.pointwise(torch.relu(self.norm2(self.depthwise(x)))))
        return self.head(torch.relu(self.last(x)).mean((2, 3)))


def convolutions():
    """Norms whose statistics are those of the example input, and a convolution without one."""
    torch.manual_seed(0)
    net = Convolutions()
    for norm in (net.norm1, net.norm2, net.norm3):
        norm.momentum = None
        nn.init.uniform_(norm.weight, 0.3, 2)
        nn.init.normal_(norm.bias)
    with torch.no_grad():
        net.train()(torch.randn(64, 3, 12, 12))
    return net.eval(), (torch.randn(64, 3, 12, 12),)


def relu_chain():
    """Products in a row with only ReLUs between them; one channel is far larger than the others."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, groups=8),
        nn.ReLU(),
        nn.Conv2d(8, 6, 1),
        nn.ReLU6(),
        nn.Conv2d(6, 6, 1),
        nn.Flatten(),
        nn.Linear(216, 12),
        nn.ReLU(),
        nn.Linear(12, 4),
    )
    with torch.no_grad():
        net[0].weight[3] *= 30  # a channel that spoils the range of the products around it
        net[0].bias[3] *= 30
    return net.eval(), (torch.randn(4, 3, 10, 10),)
