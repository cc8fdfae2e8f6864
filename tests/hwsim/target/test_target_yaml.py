"""The YAML reader: values as typed, places exact, nothing dangerous constructed."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from hwsim.target.yaml_reader import MAX_VALUES, YamlError, plain_scalar, read_yaml


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e9", 1e9),
        ("1E+3", 1e3),
        ("no", "no"),
        ("off", "off"),
        ("yes", "yes"),
        ("010", 10),
        ("0o10", 8),
        ("0x1F", 31),
        ("1_000", 1000),
        ("12:30:45", "12:30:45"),
        ("2024-01-01", "2024-01-01"),
        ("true", True),
        ("~", None),
        ("", None),
        (".5", 0.5),
        ("-.inf", -math.inf),
        ("68 GB/s", "68 GB/s"),
        ("=", "="),
        ("<<", "<<"),
    ],
)
def test_plain_scalars_follow_yaml_1_2(text, value):
    found = plain_scalar(text)
    assert found == value and type(found) is type(value)


def test_nan_is_a_number():
    assert math.isnan(plain_scalar(".nan"))


def test_quoted_words_stay_words():
    assert read_yaml("a: '1'\nb: \"true\"\nc: |\n  12\n").data == {"a": "1", "b": "true", "c": "12\n"}


def test_positions_count_from_one():
    read = read_yaml("a:\n  - b: 1\n    c: [2, 3]\n")
    assert read.data == {"a": [{"b": 1, "c": [2, 3]}]}
    assert read.keys[("a", 0, "c")] == (3, 5)
    assert read.values[("a", 0, "c", 1)] == (3, 12)


def test_duplicate_fields_are_all_reported_and_the_first_wins():
    read = read_yaml("a: 1\nb: 2\na: {a: 3}\nb: 4\n")
    assert read.data == {"a": 1, "b": 2}
    assert [(p.position, p.path) for p in read.problems] == [((3, 1), ("a",)), ((4, 1), ("b",))]
    assert "line 1" in read.problems[0].message


BILLION_LAUGHS = 'a: &a ["x"]\nb: &b [*a,*a]\nc: &c [*b,*b]\nd: [*c,*c]\n'


@pytest.mark.parametrize(
    ("text", "position", "words"),
    [
        (BILLION_LAUGHS, (1, 4), "anchors and aliases"),
        ("a: *b\n", (1, 4), "anchors and aliases"),
        ("a: !!python/object:os.system x\n", (1, 4), "tags"),
        ("a: 1\n---\nb: 2\n", (2, 1), "second document"),
        ("%YAML 1.1\n---\na: no\n", (2, 1), "YAML 1.2"),
        ("a: [1, 2\nb: 3\n", None, "not valid YAML"),
        ("a: b: c\n", (1, 5), "not valid YAML"),
        ("a:\n\t- b\n", None, "not valid YAML"),
        ("? [1]\n: 2\n", (1, 3), "field name"),
        ("[" * 5000, (1, 17), "nested deeper"),
        ("a: \0\n", None, "not valid YAML"),
        ("a: '\n", None, "not valid YAML"),
    ],
)
def test_refusals_know_their_place(text, position, words):
    with pytest.raises(YamlError, match=words) as caught:
        read_yaml(text)
    if position is not None:
        assert caught.value.position == position
    assert "\n" not in caught.value.message


def test_too_many_values():
    with pytest.raises(YamlError, match="more than"):
        read_yaml("a: [" + "1," * (MAX_VALUES + 1) + "]")


@settings(max_examples=400, deadline=None)
@given(st.text(max_size=100) | st.text("{}[]:,-?!&*|>'\"%@`# \n\tab0", max_size=60))
def test_any_text_is_read_or_refused(text):
    try:
        read_yaml(text)
    except YamlError as error:
        assert error.position[0] >= 1 and error.position[1] >= 1


PLAIN = st.recursive(
    st.integers(-(10**9), 10**9) | st.booleans() | st.text("abcxyz ", min_size=1, max_size=6) | st.none(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text("abc", min_size=1, max_size=4), inner, max_size=4)
    ),
    max_leaves=12,
)


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(st.text("abc", min_size=1, max_size=4), PLAIN, max_size=5))
def test_same_data_as_the_librarys_own_loader(data):
    import io

    stream = io.StringIO()
    YAML(typ="safe", pure=True).dump(data, stream)
    text = stream.getvalue()
    if "&id" not in text:  # the dumper may share equal parts through anchors
        assert read_yaml(text).data == YAML(typ="safe", pure=True).load(text) == data
