import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quant.errors import QuantError
from quant.scheme import FLOAT, Scheme


@st.composite
def schemes(draw):
    if draw(st.integers(0, 9)) == 0:
        return Scheme(None, None)
    order = draw(st.integers(1, 8))
    kept = draw(st.one_of(st.just([]), st.lists(st.integers(0, 100), min_size=order - 1, max_size=order - 1)))
    return Scheme(
        weight_bits=draw(st.integers(1, 16)),
        act_bits=draw(st.one_of(st.none(), st.integers(2, 16))),
        order=order,
        kept=tuple(kept),
        axis=draw(st.sampled_from(["rows", "columns"])),
        binary_last=order > 1 and draw(st.booleans()),
        predictors=draw(st.integers(1, 16)) if order > 1 else 1,
        recipe=tuple(draw(st.lists(st.sampled_from(["bc", "gptq", "repquant", "pd2"]), unique=True))),
    )


@given(schemes())
def test_round_trip(scheme):
    assert Scheme.parse(str(scheme)) == scheme
    assert str(Scheme.parse(str(scheme))) == str(scheme)


@given(schemes(), schemes())
def test_equal_schemes_print_equally_and_only_they(left, right):
    assert (left == right) == (str(left) == str(right))


@pytest.mark.parametrize(
    ("text", "scheme"),
    [
        ("w8a8", Scheme(8, 8)),
        ("w4", Scheme(4, None)),
        ("fp", FLOAT),
        ("w4a8.o2.g50.e2", Scheme(4, 8, order=2, kept=(50,), predictors=2)),
        ("w2a8.o3.c50-25", Scheme(2, 8, order=3, kept=(50, 25), axis="columns")),
        ("w4a8.o3.g50", Scheme(4, 8, order=3, kept=(50, 50))),
        ("w4a8.o2.b1", Scheme(4, 8, order=2, binary_last=True)),
        ("w4a8+repquant+bc", Scheme(4, 8, recipe=("repquant", "bc"))),
    ],
)
def test_examples(text, scheme):
    assert Scheme.parse(text) == scheme
    assert str(scheme) == text


@pytest.mark.parametrize(
    ("text", "canonical"),
    [("w4a8.o1", "w4a8"), ("w4a8.o3.g50-50", "w4a8.o3.g50"), ("w4a8.o2.c100", "w4a8.o2")],
)
def test_defaults_are_not_printed(text, canonical):
    assert str(Scheme.parse(text)) == canonical


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "begin with"),
        ("a8", "begin with"),
        ("w0a8", "weight bits 0"),
        ("w4a1", "activation bits 1"),
        ("w4a8.g50", "keeps 1 percentages: order 1"),
        ("w4a8.o3.g50-40-30", "order 3 takes one or 2"),
        ("w4a8.o2.g101", "from 0 to 100"),
        ("w4a8.b1", "binary last term"),
        ("w4a8.e2", "needs order 2"),
        ("w4a8.o2.o3", "repeated or misplaced"),
        ("w4a8.e2.o2", "misplaced"),
        ("w4a8.o2.g50.c50", "repeated"),
        ("w4a8.x3", "none of"),
        ("w4a8.o9", "order 9"),
        ("w4a8+BC", "lower-case"),
        ("w4a8+bc+bc", "named twice"),
        ("fp.o2", "takes no parts"),
    ],
)
def test_mistakes_are_named(text, says):
    with pytest.raises(QuantError, match=says):
        Scheme.parse(text)


def test_shares_and_bits():
    scheme = Scheme.parse("w4a8.o3.g50-25.b1")
    assert scheme.shares == (1.0, 0.5, 0.25)
    assert scheme.term_bits == (4, 4, 1)
    assert scheme.bits_per_weight == 4 + 2 + 0.25
    assert FLOAT.bits_per_weight == 32
    assert FLOAT.is_float


def test_import_is_light():
    code = "import sys, quant.scheme; print([m for m in ('torch', 'numpy', 'numba') if m in sys.modules])"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        == "[]\n"
    )
