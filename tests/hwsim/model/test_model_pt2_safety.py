"""A .pt2 archive is a zip with pickled parts, evaluated sizes and named functions; a hostile one must not run code."""

import json
import os
import pickle
import zipfile

import pytest
import torch

from hwsim.errors import UserError
from hwsim.model.load import load_model
from tests.small_models import conv_net


class Bomb:
    def __init__(self, mark: str) -> None:
        self.mark = mark

    def __reduce__(self):
        return (os.mkdir, (self.mark,))


@pytest.fixture
def saved(tmp_path):
    module, inputs = conv_net()
    path = tmp_path / "net.pt2"
    torch.export.save(torch.export.export(module, inputs), path)
    return path


def test_an_honest_program_loads(saved):
    assert [layer.name for layer in load_model(str(saved)).graph.products()]


def test_a_bomb_in_the_sample_inputs_does_not_go_off(saved, tmp_path):
    mark, hostile = tmp_path / "exploded", tmp_path / "hostile.pt2"
    planted = 0
    with zipfile.ZipFile(saved) as source, zipfile.ZipFile(hostile, "w") as target:
        for item in source.infolist():
            data = source.read(item)
            if "sample_inputs" in item.filename:
                data = pickle.dumps(Bomb(str(mark)))
                planted += 1
            target.writestr(item.filename, data)
    assert planted == 1
    with pytest.raises(UserError, match=r"hostile\.pt2"):
        load_model(str(hostile))
    assert not mark.exists()
    assert "TORCH_FORCE_WEIGHTS_ONLY_LOAD" not in os.environ


class Halves(torch.nn.Module):
    """Has sizes that depend on the batch, as many saved programs do."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(6, 8)

    def forward(self, x):
        return torch.relu(self.linear(x)).reshape(x.shape[0] * 2, 4)[: x.shape[0] + 1]


@pytest.fixture
def dynamic(tmp_path):
    path = tmp_path / "halves.pt2"
    sizes = {"x": {0: torch.export.Dim("batch", min=2, max=64)}}
    torch.export.save(torch.export.export(Halves(), (torch.randn(4, 6),), dynamic_shapes=sizes), path)
    return path


def _changed(path, change):
    """A copy of the archive whose program document went through ``change``."""
    hostile = path.with_name("hostile.pt2")
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(hostile, "w") as target:
        for item in source.infolist():
            data = source.read(item)
            if item.filename.endswith("models/model.json"):
                document = json.loads(data)
                change(document["graph_module"]["graph"])
                data = json.dumps(document).encode()
            target.writestr(item.filename, data)
    return hostile


def test_symbolic_sizes_load(dynamic):
    assert [layer.name for layer in load_model(str(dynamic)).graph.products()] == ["linear"]


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').mkdir('{mark}')",
        "eval(chr(49))",
        "(eval)(s0)",
        "s0.__class__",
        "S('print(1)')",
        "[c for c in s0]",
        "lambda: s0",
    ],
)
def test_a_size_that_is_code_is_refused(dynamic, tmp_path, text):
    mark = tmp_path / "exploded"

    def plant(graph):
        for value in graph["tensor_values"].values():
            for size in value["sizes"]:
                if "as_expr" in size:
                    size["as_expr"]["expr_str"] = text.format(mark=mark)

    with pytest.raises(UserError, match="not arithmetic"):
        load_model(str(_changed(dynamic, plant)))
    assert not mark.exists()


@pytest.mark.parametrize(
    "target",
    [
        "torch.os.mkdir",
        "torch.ops.load_library",
        "torch.ops.aten.from_file.default",
        "torch.ops.aten.__class__.mro",
        "_operator.call",
        "_operator.attrgetter",
        "math.__loader__",
        "#other:op",
    ],
)
def test_a_node_that_is_no_operator_is_refused(saved, target):
    def plant(graph):
        graph["nodes"][0]["target"] = target

    with pytest.raises(UserError, match="none of torch's own"):
        load_model(str(_changed(saved, plant)))


def test_a_file_twice_in_the_archive_is_refused(saved, tmp_path):
    hostile = tmp_path / "twice.pt2"
    with zipfile.ZipFile(saved) as source, zipfile.ZipFile(hostile, "w") as target:
        for item in source.infolist():
            target.writestr(item.filename, source.read(item))
        with pytest.warns(UserWarning, match="Duplicate name"):
            target.writestr(source.infolist()[0].filename, b"")
    with pytest.raises(UserError, match="holds a file twice"):
        load_model(str(hostile))
