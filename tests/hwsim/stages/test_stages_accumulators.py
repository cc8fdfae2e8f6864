"""What cannot be summed in the device's accumulators is not planned, and what is planned can be quantized."""

import json

import pytest

from hwsim.cli.main import run

NET = """
import torch
from torch import nn

def net(width):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10)).eval(), (torch.randn(1, 64),)

def narrow():
    return net(128)

def wide():
    return net(4096)
"""
DEVICE = """
schema_version: 1
name: sixteen
clock_hz: 1 GHz
units: 1
engines: [{{name: e, macs_per_cycle: {widths}, accumulator_bits: {bits}}}]
float_fallback: false
memories: [{{name: ram, kind: dram, bytes: 1 GiB, bandwidth: 10 GB/s}}]
power_w: 1
"""


@pytest.fixture
def make(tmp_path):
    def plan(
        factory: str, widths: str = "{w8a16: 8, w16a16: 4, w8a8: 16}", bits: int = 32, *more: str
    ) -> int:
        (tmp_path / "net.py").write_text(NET)
        (tmp_path / "sixteen.yaml").write_text(DEVICE.format(widths=widths, bits=bits))
        return run([
            "--quiet", "plan", "-t", str(tmp_path / "sixteen.yaml"), "-m", f"{tmp_path}/net.py:{factory}",
            "--objective", "error", "-o", str(tmp_path / "out"), *more,
        ])  # fmt: skip

    return plan


def schemes(tmp_path):
    return [layer["scheme"] for layer in json.loads((tmp_path / "out" / "plan.json").read_text())["layers"]]


@pytest.mark.parametrize("factory", ["narrow", "wide"])
def test_the_most_accurate_plan_can_be_quantized(factory, make, tmp_path):
    """Short rows keep 16-bit activations, long ones do not; 16-bit weights fit nowhere."""
    assert make(factory) == 0
    assert schemes(tmp_path) == ["w8a16", "w8a16" if factory == "narrow" else "w8a8"]
    assert run(["--quiet", "quantize", "--plan", str(tmp_path / "out"), "-o", str(tmp_path / "q")]) == 0


def test_a_narrow_accumulator_narrows_the_choice(make, tmp_path):
    assert make("narrow", "{w4a4: 16, w8a8: 8}", 20) == 0
    assert schemes(tmp_path)[0].startswith("w4a4")


def test_a_layer_without_a_scheme_is_one_line(make, capsys):
    assert make("wide", "{w8a16: 8}") == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "32-bit accumulators of sixteen in w8a16" in err and "--bits" in err


def test_a_pin_on_what_the_accumulator_rules_out_says_so(make, tmp_path, capsys):
    assert make("wide", "{w8a16: 8, w8a8: 16}", 32, "--pin", "2=w8a16") == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "layer 2 (linear)" in err
    assert "the sums of w8a16" in err and "accumulators" in err and "the layer has w8a8" in err
    assert not (tmp_path / "out" / "plan.json").exists()
    assert make("narrow", "{w8a16: 8, w8a8: 16}", 32, "--pin", "2=w8a16") == 0


def test_a_pin_on_a_width_that_the_device_lacks_names_what_it_has(make, capsys):
    assert make("narrow", "{w4a8: 16, w8a8: 8}", 32, "--pin", "0=w5a8|a>8") == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "layer 0 (linear)" in err and "not among the options" in err and "w4a8, w4a8.o2" in err


def test_asked_widths_that_some_layers_cannot_have_are_told(make, tmp_path):
    assert make("wide", "{w8a16: 8, w8a8: 16}", 32, "--bits", "w8a8,w8a16") == 0
    warnings = json.loads((tmp_path / "out" / "report.json").read_text())["warnings"]
    assert any("w8a16 to 1 of 2 layers" in text for text in warnings), warnings
