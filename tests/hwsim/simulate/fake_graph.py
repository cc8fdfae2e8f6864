"""Small layers and machines with the fields the simulator reads, and networks from the reference tables."""

import csv
from dataclasses import dataclass

from hwsim.simulate.machine import Engine, Level, Machine
from tests.shared_data import shared


@dataclass(frozen=True)
class Conv:
    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)


@dataclass(frozen=True)
class FakeLayer:
    name: str
    kind: str
    batch: int = 1
    m: int = 1
    n: int = 1
    k: int = 1
    groups: int = 1
    inputs: tuple[str, ...] = ()
    input_shapes: tuple[tuple[int, ...], ...] = ()
    output_shape: tuple[int, ...] = ()
    conv: Conv | None = None
    op: str = ""
    group: str | None = None
    weight: str | None = None
    bias: str | None = None

    @property
    def macs(self):
        return self.batch * self.groups * self.m * self.n * self.k

    @property
    def params(self):
        return 0 if self.kind not in ("linear", "conv2d") else self.groups * self.n * self.k

    @property
    def elements(self):
        return self.batch * self.groups * self.m * self.n


def linear(name, m, n, k, inputs=()):
    return FakeLayer(name, "linear", 1, m, n, k, 1, inputs, ((m, k),), (m, n))


def matmul(name, batch, m, n, k, inputs=()):
    return FakeLayer(name, "matmul", batch, m, n, k, 1, inputs, ((batch, m, k), (batch, k, n)), (batch, m, n))


def conv(name, out, n, c, kernel, stride=1, groups=1, inputs=()):
    size = (out - 1) * stride + kernel
    return FakeLayer(
        name, "conv2d", 1, out * out, n // groups, c // groups * kernel * kernel, groups, inputs,
        ((1, c, size, size),), (1, n, out, out), Conv((kernel, kernel), (stride, stride)),
    )  # fmt: skip


def network(model):
    """The products of a reference network, chained one after another."""
    layers = []
    previous = "input:x"
    for row in csv.DictReader(shared(f"ref/topologies/{model}_layers.csv").open()):
        name, rep = f"{row['idx']}.{row['name']}", int(row["rep"])
        m, n, k = int(row["M"]), int(row["N"]), int(row["K"])
        if row["op"] == "dw":
            channels = int(row["c"])
            layer = conv(
                name,
                int(row["out_e"]),
                channels,
                channels,
                int(row["r"]),
                int(row["stride"]),
                channels,
                (previous,),
            )
        elif row["op"] == "conv":
            layer = conv(
                name, int(row["out_e"]), n, int(row["c"]), int(row["r"]), int(row["stride"]), 1, (previous,)
            )
        elif rep > 1:
            layer = matmul(name, rep, m, n, k, (previous,))
        else:
            layer = linear(name, m, n, k, (previous,))
        layers.append(layer)
        previous = name
    return layers


KINDS = ("norm", "softmax", "activation", "add", "mul", "pool", "embedding", "reduce", "other")


def rates(slow, fast):
    return {kind: fast if kind in ("add", "mul") else slow for kind in KINDS}


ALL = frozenset({"linear", "conv2d", "depthwise", "matmul"})
WIDTHS = {(8, 8): 1.0, (4, 8): 1.0, (4, 4): 2.0, (16, 16): 0.5}


def systolic(rows=128, columns=128, units=1, dataflow="ws", pipelined=False, **fields):
    engine = Engine(
        "array", "systolic", ALL, {w: r * rows * columns for w, r in WIDTHS.items()}, rows, columns, dataflow,
        pipelined=pipelined, mac_pj={(8, 8): 0.2, (4, 8): 0.15, (4, 4): 0.1, (16, 16): 0.8},
    )  # fmt: skip
    levels = (
        Level("sram", fields.pop("sram", 2**21), fields.pop("sram_rate", 1024.0), True, 1.0),
        Level("dram", 2**33, fields.pop("dram_rate", 32.0), True, 40.0),
    )
    return Machine(
        "array", 1e9, units, (engine,), levels, rates(16.0, 64.0),
        launch_cycles=fields.pop("launch", 500.0), sync_cycles=fields.pop("sync", 200.0), static_w=0.1,
    )  # fmt: skip


def cpu(units=4, **fields):
    engine = Engine(
        "dot", "simd", ALL, {w: r * 128 for w, r in WIDTHS.items()} | {(32, 32): 32.0}, tile=(1, 16, 4),
        mac_pj={(8, 8): 0.5}, packed_weight_bits=frozenset({2, 4}),
    )  # fmt: skip
    levels = (
        Level("l1", 32768, 128.0, False, 0.5),
        Level("l2", 2**20, 64.0, False, 1.0),
        Level("l3", fields.pop("l3", 2**24), 64.0, True, 5.0),
        Level("ddr", 2**34, fields.pop("dram_rate", 16.0), True, 60.0),
    )
    return Machine(
        "cpu", 2e9, units, (engine,), levels, rates(4.0, 16.0), launch_cycles=2000.0, sync_cycles=4000.0
    )
