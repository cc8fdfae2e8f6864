"""Bit operations against published totals and counts by hand."""

import csv

import pytest

from hwsim.simulate.bops import bit_operations
from quant.scheme import Scheme
from tests.hwsim.simulate.fake_graph import conv, linear, network
from tests.shared_data import shared


def test_by_hand():
    layer = linear("l", 2, 8, 16)
    found = bit_operations(layer, Scheme.parse("w4a8.o2.g50"))
    assert found.product == 2 * 16 * (8 + 4) * 32
    assert found.accumulate == 2 * 16 * (8 + 4) * (32 + 4 + 8 + 4)
    assert found.operations == 2 * found.product
    assert bit_operations(layer, Scheme(None, None)).float32_share == 1.0
    assert bit_operations(layer, Scheme.parse("w8a8")).float32_share == 1 / 16


def test_depthwise_keeps_channels():
    layer = conv("dw", 4, 10, 10, 3, groups=10)
    assert bit_operations(layer, Scheme.parse("w4a8.o2.g25")).product == 16 * 9 * (10 + 3) * 32


def test_hawq_v3_totals():
    """HAWQ-V3's own BOPs of ResNet-18 (first and last layer left out there) for its all-8-bit answer."""
    rows = list(csv.DictReader(shared("ref/hawq_t4_layers.csv").open()))
    wanted = sum(float(row["MACs_M"]) for row in rows if row["model"] == "resnet18") * 64 / 1e3
    inner = network("resnet18")[1:-1]
    found = sum(bit_operations(layer, Scheme.parse("w8a8")).product for layer in inner) / 1e9
    assert found == pytest.approx(wanted, rel=0.02)
