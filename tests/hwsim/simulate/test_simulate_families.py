"""Every shipped descriptor prices networks of every family: finite, positive, within its bounds, no slower when faster.

Small networks stand for the families: inverted bottlenecks with squeeze and excitation, large depthwise kernels with
norms, dense concatenation, a plain stack with large fully connected layers, attention.
"""

import math
from types import SimpleNamespace

import pytest

from hwsim.simulate.calibration import prior, workload_of
from hwsim.simulate.cycle import simulate_scheme
from hwsim.target.load import list_targets, load_target
from quant.scheme import Scheme
from tests.hwsim.simulate.fake_graph import FakeLayer, conv, linear, matmul

SIDE = 14


def _plain(name, kind, inputs, channels, op="", rows=SIDE * SIDE):
    shapes = tuple((rows, width) for width in channels)
    wide = sum(channels) if op == "cat" else channels[0]
    return FakeLayer(
        name, kind, m=rows, n=wide, inputs=inputs, input_shapes=shapes, output_shape=(rows, wide), op=op
    )


def inverted():
    return [
        conv("expand", SIDE, 96, 24, 1, 1, 1, ("input:x",)),
        _plain("swish", "activation", ("expand",), (96,), "silu"),
        conv("depthwise", SIDE, 96, 96, 5, 1, 96, ("swish",)),
        _plain("mean", "pool", ("depthwise",), (96,), rows=1),
        linear("squeeze", 1, 8, 96, ("mean",)),
        linear("excite", 1, 96, 8, ("squeeze",)),
        _plain("scale", "mul", ("depthwise", "excite"), (96, 96)),
        conv("project", SIDE, 24, 96, 1, 1, 1, ("scale",)),
        _plain("add", "add", ("project", "input:x"), (24, 24)),
    ]


def large_kernel():
    return [
        conv("depthwise", SIDE, 96, 96, 7, 1, 96, ("input:x",)),
        _plain("norm", "norm", ("depthwise",), (96,)),
        linear("up", SIDE * SIDE, 384, 96, ("norm",)),
        _plain("gelu", "activation", ("up",), (384,), "gelu"),
        linear("down", SIDE * SIDE, 96, 384, ("gelu",)),
        _plain("add", "add", ("down", "input:x"), (96, 96)),
    ]


def dense():
    layers, width, above = [], 64, "input:x"
    for step in range(4):
        layers += [
            _plain(f"norm{step}", "norm", (above,), (width,)),
            conv(f"one{step}", SIDE, 128, width, 1, 1, 1, (f"norm{step}",)),
            conv(f"three{step}", SIDE, 32, 128, 3, 1, 1, (f"one{step}",)),
            _plain(f"cat{step}", "other", (above, f"three{step}"), (width, 32), "cat"),
        ]
        width, above = width + 32, f"cat{step}"
    return layers


def stack():
    return [
        conv("a", SIDE, 256, 128, 3, 1, 1, ("input:x",)),
        conv("b", SIDE, 256, 256, 3, 1, 1, ("a",)),
        _plain("pool", "pool", ("b",), (256,), rows=SIDE * SIDE // 4),
        linear("wide", 1, 4096, 49 * 256, ("pool",)),
        linear("head", 1, 1000, 4096, ("wide",)),
    ]


def attention():
    return [
        linear("qkv", 197, 576, 192, ("input:x",)),
        matmul("scores", 3, 197, 197, 64, ("qkv",)),
        _plain("soft", "softmax", ("scores",), (591,), rows=197),
        matmul("context", 3, 197, 64, 197, ("soft",)),
        linear("out", 197, 192, 192, ("context",)),
        _plain("norm", "norm", ("out",), (192,), rows=197),
    ]


FAMILIES = (inverted, large_kernel, dense, stack, attention)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda made: made.__name__)
@pytest.mark.parametrize("name", list_targets())
def test_any_network_is_priced_on_any_device(name, family):
    layers, target, scheme = family(), load_target(name), Scheme(8, 8)
    predicted, replayed = [], []
    for clock in (0.7, 1.0, 1.4):
        machine = target.replace({"clock_hz": target.clock_hz * clock})
        found = prior(machine).predict(workload_of(layers, scheme, machine))
        assert math.isfinite(found.high)
        assert 0 < found.low < found.seconds < found.high
        predicted.append(found.seconds)
        replay = simulate_scheme(SimpleNamespace(layers=layers), scheme, machine)
        assert 0 < replay.roofline_cycles <= replay.cycles * (1 + 1e-9)
        assert replay.cycles <= replay.serial_cycles * (1 + 1e-9)
        replayed.append(replay.seconds)
    assert predicted == sorted(predicted, reverse=True)
    assert replayed == sorted(replayed, reverse=True)
