import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwsim.errors import UserError
from hwsim.units import format_quantity, parse_quantity


@pytest.mark.parametrize(
    ("text", "dimension", "value"),
    [
        ("4ms", "time", 0.004), ("1.2GHz", "frequency", 1.2e9), ("20MiB", "bytes", 20 * 2**20),
        ("512 KiB", "bytes", 2**19), ("30G", "count", 30e9), ("50mJ", "energy", 0.05), ("1e3", "count", 1000),
        ("7 W", "power", 7), (".5us", "time", 5e-7),
    ],
)  # fmt: skip
def test_parse(text, dimension, value):
    assert parse_quantity(text, dimension, "--x") == pytest.approx(value, rel=1e-12)


@pytest.mark.parametrize("text", ["", "4", "ms", "-4ms", "0ms", "4 parsecs", "nan ms", "4msms", "1e999ms"])
def test_refused_in_one_line(text):
    with pytest.raises(UserError) as caught:
        parse_quantity(text, "time", "--max-latency")
    assert str(caught.value).startswith("--max-latency: ")
    assert "\n" not in str(caught.value)


@given(st.floats(1e-9, 1e12), st.sampled_from(["time", "bytes", "energy", "frequency", "count", "power"]))
def test_what_is_printed_can_be_typed_back(value, dimension):
    text = format_quantity(value, dimension, digits=6)
    if text.startswith("0"):
        return  # below the smallest unit of the dimension
    assert math.isclose(parse_quantity(text, dimension, "--x"), value, rel_tol=1e-3)


@pytest.mark.parametrize(
    ("value", "dimension", "text"),
    [(0.004, "time", "4 ms"), (0.9999999, "time", "1 s"), (20 * 2**20, "bytes", "20 MiB"), (0, "count", "0"),
     (17.6e9, "count", "17.6 G"), (1500.0, "frequency", "1.5 kHz")],
)  # fmt: skip
def test_format(value, dimension, text):
    assert format_quantity(value, dimension) == text
