"""Bit Fusion: cycles published with the simulator's sources (results/, Eyeriss-sized array, batch 16)."""

import csv

import pytest

from hwsim.simulate.bitfusion import BitFusionArray, BitFusionLayer, bitfusion_cycles
from tests.shared_data import shared

# layer, activation bits, weight bits, published total and memory wait cycles
PUBLISHED = {
    "RNN matmul": (BitFusionLayer(1, 1, 1, 4096, 4096, 16), 4, 4, 394583, 263511),
    "LSTM matmul": (BitFusionLayer(1, 1, 1, 3600, 3600, 16), 4, 4, 337175, 231383),
    "AlexNet conv1": (BitFusionLayer(11, 55, 4, 3, 96, 16, first=True), 8, 8, 3746423, 406823),
    "CIFAR10 conv1": (BitFusionLayer(3, 32, 1, 128, 128, 16), 2, 2, 799062, 209238),
    "CIFAR10 conv0": (BitFusionLayer(3, 32, 1, 3, 128, 16, first=True), 8, 8, 717654, 586582),
    "CIFAR10 fc6": (BitFusionLayer(1, 1, 1, 8192, 1024, 16), 2, 2, 99671, 83287),
    "CIFAR10 fc8": (BitFusionLayer(1, 1, 1, 1024, 10, 16), 2, 2, 513, 449),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_cycles_are_reproduced(name):
    layer, act_bits, weight_bits, total, stall = PUBLISHED[name]
    found = bitfusion_cycles(layer, act_bits, weight_bits)
    assert (found.total, found.stall) == (total, stall)


def test_a_wide_port_leaves_compute_alone():
    """At 4096 bits a cycle the published CIFAR-10 conv1 waits 25 cycles of 589,849."""
    found = bitfusion_cycles(PUBLISHED["CIFAR10 conv1"][0], 2, 2, BitFusionArray(bits_per_cycle=4096))
    assert (found.total, found.stall) == (589849, 25)


@pytest.mark.parametrize(("bits", "millions"), [((8, 8), 3.72), ((4, 4), 1.43), ((2, 2), 1.05)])
def test_resnet18_totals(bits, millions):
    """Totals of the survey at batch 1 (its first layer is the only unrolled one)."""
    total = 0
    for row in csv.DictReader(shared("ref/topologies/resnet18_layers.csv").open()):
        conv = row["op"] == "conv"
        layer = BitFusionLayer(
            int(row["r"]) if conv else 1, int(row["out_e"]) if conv else 1, int(row["stride"]),
            int(row["c"]) if conv else int(row["K"]), int(row["N"]), 1, first=row["idx"] == "0",
        )  # fmt: skip
        total += bitfusion_cycles(layer, *bits).total
    assert total / 1e6 == pytest.approx(millions, abs=0.005)
