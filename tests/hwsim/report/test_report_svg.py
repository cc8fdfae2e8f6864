"""The chart writer: scales, ticks, labels, well-formed output."""

import math
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwsim.report.svg import CHAR_WIDTH, Canvas, Scale, number, tick_text

POSITIVE = st.floats(1e-12, 1e15)


@given(values=st.lists(POSITIVE, min_size=1, max_size=20), log=st.booleans())
def test_scale_holds_its_values_and_keeps_their_order(values, log):
    scale = Scale.over(values, 50, 700, log=log)
    places = [scale(value) for value in sorted(values)]
    assert all(50 - 1e-6 <= place <= 700 + 1e-6 for place in places)
    assert places == sorted(places)


@given(low=POSITIVE, ratio=st.floats(1.001, 1e9), log=st.booleans())
def test_ticks_are_inside_few_and_round(low, ratio, log):
    scale = Scale(low, low * ratio, 0, 100, log=log)
    ticks = scale.ticks()
    assert len(ticks) <= 10
    assert ticks == sorted(set(ticks))
    for tick in ticks:
        assert low * (1 - 1e-9) - 1e-15 <= tick <= low * ratio * (1 + 1e-9)
    if log and ratio >= 30:
        assert all(math.log10(tick) == pytest.approx(round(math.log10(tick)), abs=1e-9) for tick in ticks)


def test_log_scale_leaves_out_what_has_no_logarithm():
    scale = Scale.over([0.0, -1.0, math.inf, 1.0, 100.0], 0, 100, log=True)
    assert 0 < scale(1.0) < scale(100.0) < 100


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.25, "0.25"), (1500, "1500"), (1e-4, "10⁻⁴"), (2e-4, "2·10⁻⁴"), (1e12, "10¹²"), (-3e6, "-3·10⁶")],
)  # fmt: skip
def test_tick_text(value, text):
    assert tick_text(value) == text


@given(st.floats(-1e6, 1e6))
def test_coordinates_are_short_and_true(value):
    text = number(value)
    assert abs(float(text) - value) <= 0.0501
    assert not text.endswith(".0")


@given(
    places=st.lists(st.tuples(st.floats(60, 300), st.floats(40, 200)), min_size=2, max_size=4, unique=True)
)
def test_labels_of_neighbours_do_not_overlap(places):
    canvas = Canvas(760, 330)
    for x, y in places:
        canvas.label(x, y, "layer")
    boxes = canvas._taken
    for index, (left, top, right, low) in enumerate(boxes):
        assert right - left == pytest.approx(5 * CHAR_WIDTH)
        for a, b, c, d in boxes[:index]:
            assert left >= c or right <= a or top >= d or low <= b


@given(text=st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=40))
def test_any_text_stays_text(text):
    canvas = Canvas(100, 50)
    canvas.text(1, 2, text)
    canvas.rect(0, 0, 5, 5, "fill-a", hint=text)
    root = ElementTree.fromstring(canvas.render("chart", text, text))
    found = [
        element.text or "" for element in root.iter() if element.tag.endswith(("}text", "}title", "}desc"))
    ]
    assert found == [text] * 4
    assert root.get("role") == "img"
    assert root.get("aria-labelledby") == "chart-title chart-text"
