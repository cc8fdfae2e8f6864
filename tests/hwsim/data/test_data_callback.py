"""A user's function as data: what it returns is taken unchanged or refused, on the first call and on later ones."""

import sys
from pathlib import Path

import pytest
import torch

from hwsim.data.dataset import Dataset, InputForm
from hwsim.data.open import open_data
from hwsim.errors import UserError

VECTOR = InputForm((torch.zeros(2, 3),), {})
PAIR = InputForm((torch.zeros(2, 3), torch.zeros(2, 2, dtype=torch.long)), {})
HEAD = """
import torch
calls = []
once = iter([torch.ones(3)])
def first():
    calls.append(None)
    return len(calls) == 1
def function():
"""


def opened(place: Path, body: str, form: InputForm = VECTOR, limit: int | None = None) -> Dataset:
    (place / "feed.py").write_text(HEAD + "".join(f"    {line}\n" for line in body.splitlines()))
    return open_data(f"{place}/feed.py:function", form, limit=limit)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return 3", "a value of type int; return a list of samples or a generator"),
        ("return None", "a value of type NoneType; return a list"),
        ("return {'x': torch.ones(3)}", "a value of type dict; return a list"),
        ("return [{'x': torch.ones(3)}]", "an input of a sample is of type dict; give an array"),
        ("return ['abc']", "an input of a sample is of type str; give an array"),
        ("return [[torch.ones(3), 1]]", "of type list, but no array of numbers .*; give an array"),
        ("return [torch.ones(3) * 1j]", "an input of a sample is complex; give an array of real numbers"),
        ("return [(torch.ones(3), 1, 2)]", r"holds 3 inputs, but the model takes 1; .*\(inputs, label\)"),
        ("return [(torch.ones(3), 'cat')]", "a label is of type str"),
        ("return [(torch.ones(3), 1j)]", "a label is complex"),
        (
            "return [(torch.ones(3), torch.arange(i)) for i in (1, 2)]",
            r"labels have the shapes \(1,\) and \(2,\)",
        ),
        ("yield torch.ones(3)\nraise ValueError('late')", "ValueError: late"),
    ],
)
def test_what_is_no_data_is_named_at_once(tmp_path: Path, body: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        opened(tmp_path, body)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("if first(): return [torch.ones(3)]\nraise ValueError('again')", "ValueError: again"),
        ("yield torch.ones(3)\nif not first(): raise ValueError('again')", "ValueError: again"),
        ("yield torch.ones(3)\nif not first(): raise SystemExit(3)", "ends the program"),
        ("return once", "returned nothing on its second call; return the same samples .* a fresh iterator"),
        ("return [torch.ones(3)] * (3 if first() else 2)", "returned 2 of 3 samples on its second call"),
        ("return [torch.ones(3)] * (3 if first() else 4)", "returned more samples on its second call than 3"),
        ("return [torch.rand(3)]", "sample 0 was another one on its second call; .* from a fixed seed"),
        ("return [(torch.ones(3), int(first()))]", "sample 0 was another one on its second call"),
    ],
)
def test_a_later_call_must_return_the_same(tmp_path: Path, body: str, message: str) -> None:
    data = opened(tmp_path, body)
    with pytest.raises(UserError, match=message):
        list(data.samples())


def test_a_limit_reads_no_further(tmp_path: Path) -> None:
    data = opened(tmp_path, "while True: yield torch.ones(3)", limit=2)
    assert data.record.count == 2
    assert len(list(data.samples())) == 2


def test_gradients_and_lists_of_numbers_are_no_obstacle(tmp_path: Path) -> None:
    data = opened(tmp_path, "return [torch.ones(3, requires_grad=True), [1.0, 1.0, 1.0]]")
    (tracked,), (listed,) = (inputs for inputs, _ in data.samples())
    assert not tracked.requires_grad
    assert torch.equal(tracked, listed)


def test_an_array_that_is_filled_again_and_again(tmp_path: Path) -> None:
    data = opened(tmp_path, "one = torch.zeros(3)\nfor i in range(3):\n    one.fill_(i)\n    yield one")
    assert [float(inputs[0][0]) for inputs, _ in list(data.samples())] == [0, 1, 2]


def test_several_inputs_are_a_tuple_in_their_types(tmp_path: Path) -> None:
    data = opened(tmp_path, "return [((torch.ones(3), [1.0, 2.0]), 4)]", PAIR)
    (((_, second), label),) = data.samples()
    assert second.dtype == torch.long
    assert label is not None
    assert int(label) == 4
    with pytest.raises(UserError, match="no int64, which the model takes; give whole numbers"):
        opened(tmp_path, "return [((torch.ones(3), [1.5, 2.0]), 4)]", PAIR)
    with pytest.raises(UserError, match="holds 1 inputs, but the model takes 2"):
        opened(tmp_path, "return [(torch.ones(3), torch.ones(2))]", PAIR)


def test_what_it_prints_stays_off_stdout_and_ours_does_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = opened(tmp_path, "for _ in range(2):\n    print('theirs')\n    yield torch.ones(3)")
    for _ in data.samples():
        print("ours", file=sys.stdout)
    assert capsys.readouterr().out == "ours\nours\n"
