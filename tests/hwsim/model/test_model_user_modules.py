"""Modules as users write them: recurrent, lazy, of other floats, without a batch, with any nest of inputs."""

import signal

import pytest
import torch
from torch import nn

from hwsim.errors import UserError
from hwsim.model.build import _cheaply
from hwsim.model.load import load_batched, load_model
from hwsim.model.rewrite import writes
from hwsim.stages.error_profile import synthetic_inputs as probes
from quant.observe import synthetic_inputs

FILE = """
import sys
import numpy as np
import torch
from torch import nn

class Recurrent(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.layers, self.head = kind(6, 8, 2, batch_first=True), nn.Linear(8, 3)
    def forward(self, x):
        return self.head(self.layers(x)[0][:, -1])

class Cells(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second, self.head = nn.GRUCell(6, 8), nn.LSTMCell(8, 8), nn.Linear(8, 3)
    def forward(self, x):
        state = x.new_zeros(x.shape[0], 8)
        cell = (state, state)
        for step in range(x.shape[1]):
            state = self.first(x[:, step], state)
            cell = self.second(state, cell)
        return self.head(cell[0])

class Named(nn.Module):
    def __init__(self):
        super().__init__()
        self.line = nn.Linear(4, 4)
    def forward(self, x, *, scale):
        return self.line(x) * scale

class Listed(Named):
    def forward(self, parts):
        return self.line(parts[0]) + 2 * self.line(parts[1])

class Masked(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(16, 4, batch_first=True)
    def forward(self, x, mask):
        return self.attention(x, x, x, key_padding_mask=mask, need_weights=False)[0]

class OneByOne(nn.Module):
    def __init__(self):
        super().__init__()
        self.line = nn.Linear(12, 3)
    def forward(self, x):
        return self.line(x.reshape(1, -1))

class Branching(nn.Module):
    def __init__(self):
        super().__init__()
        self.line = nn.Linear(4, 4)
    def forward(self, x):
        return torch.cond(x.sum() > 0, lambda x: self.line(x), lambda x: x * 2, (x,))

def seeded(make, *inputs):
    torch.manual_seed(0)
    return make(), inputs

def lstm(): return seeded(lambda: Recurrent(nn.LSTM), torch.randn(2, 5, 6))
def gru(): return seeded(lambda: Recurrent(nn.GRU), torch.randn(2, 5, 6))
def rnn(): return seeded(lambda: Recurrent(nn.RNN), torch.randn(2, 5, 6))
def cells(): return seeded(Cells, torch.randn(2, 5, 6))
def named(): return seeded(Named)[0], {"scale": torch.full((1, 4), 2.0), "x": torch.randn(1, 4)}
def listed(): return seeded(Listed, [torch.randn(1, 4), torch.randn(1, 4)])
def arrays(): return seeded(lambda: nn.Linear(4, 3), np.ones((1, 4), np.float32))
def lazy(): return seeded(lambda: nn.Sequential(nn.Flatten(), nn.LazyLinear(3)), torch.randn(1, 2, 9))
def half(): return seeded(lambda: nn.Linear(4, 3).to(torch.bfloat16), torch.randn(1, 4, dtype=torch.bfloat16))
def vector(): return seeded(lambda: nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)), torch.randn(4))
def lone(): return seeded(lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), torch.randn(3, 8, 8))
def lone_line(): return seeded(lambda: nn.Conv1d(3, 4, 3), torch.randn(3, 8))
def masked(): return seeded(Masked, torch.randn(1, 4, 16), torch.tensor([[False, False, False, True]]))
def one_by_one(): return seeded(OneByOne, torch.randn(1, 3, 4))
def branching(): return seeded(Branching, torch.randn(1, 4))
def leaves(): sys.exit(0)
def talks():
    print("built")
    return seeded(lambda: nn.Linear(4, 3), torch.randn(1, 4))
instance = nn.Sequential(nn.Conv2d(3, 4, 3))
"""


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("user") / "mine.py"
    path.write_text(FILE)
    return path


def eager(file, name):
    """The module and its inputs, as the file gives them."""
    space = {}
    exec(compile(FILE, str(file), "exec"), space)
    return space[name]()


@pytest.mark.parametrize("name", ["lstm", "gru", "rnn", "cells"])
def test_recurrent_layers_are_products_and_writes_nowhere(file, name):
    """Each step is a product of each gate with its weight as outputs x inputs, which the error model reads."""
    loaded = load_model(f"{file}:{name}")
    module, inputs = eager(file, name)
    torch.testing.assert_close(loaded.module(*inputs)[0], module(*inputs), rtol=1e-5, atol=1e-6)
    assert not [node for node in loaded.module.graph.nodes if writes(node.target)]
    products = [layer for layer in loaded.graph.products() if layer.kind == "linear"]
    assert len(products) >= 5 * 3
    for layer in products:
        assert loaded.module.get_parameter(layer.weight).shape == (layer.n, layer.k)


@pytest.mark.parametrize("name", ["lazy", "vector", "lone", "lone_line", "arrays"])
def test_the_same_numbers_as_the_module(file, name):
    loaded = load_model(f"{file}:{name}")
    module, inputs = eager(file, name)
    inputs = [torch.as_tensor(item) for item in inputs]
    torch.testing.assert_close(loaded.module(*inputs)[0], module(*inputs))


def test_inputs_by_name_and_in_lists(file):
    named, listed = load_model(f"{file}:named"), load_model(f"{file}:listed")
    module, given = eager(file, "named")
    by_shape = {"x": given["x"], "scale": given["scale"]}
    order = [node.name for node in named.module.graph.nodes if node.op == "placeholder"]
    torch.testing.assert_close(named.module(*[by_shape[key] for key in order])[0], module(**given))
    assert [tuple(item.flatten()[:1].shape) for item in named.example_inputs] == [(1,), (1,)]
    assert float(named.example_inputs[order.index("scale")][0, 0]) == 2
    assert len(listed.example_inputs) == 2
    assert load_model(f"{file}:listed", batch=3).example_inputs[1].shape == (3, 4)


def test_other_floats_become_those_of_32_bits(file):
    loaded = load_model(f"{file}:half")
    module, (x,) = eager(file, "half")
    torch.testing.assert_close(loaded.module(x.float())[0], module.float()(x.float()))


def test_a_module_of_the_file_and_what_it_prints(file, capsys):
    assert load_model(f"{file}:instance").graph.products()
    load_model(f"{file}:talks")
    shown = capsys.readouterr()
    assert "built" not in shown.out and "built" in shown.err


@pytest.mark.parametrize(
    ("name", "message"), [("leaves", "ends the program"), ("branching", "decides at run time")]
)
def test_what_cannot_be_taken_is_named(file, name, message):
    with pytest.raises(UserError, match=message):
        load_model(f"{file}:{name}")


def test_masks_stay_as_the_user_gave_them(file):
    """True hides a place here: a mask of ones would hide them all, and the outputs would be no numbers."""
    loaded = load_model(f"{file}:masked")
    made = [*synthetic_inputs(loaded.module, 2, 0, loaded.example_inputs), *probes(loaded, 0)]
    assert all(torch.equal(mask, loaded.example_inputs[1]) for _, mask in made)
    assert all(loaded.module(*inputs)[0].isfinite().all() for inputs in made)


def test_a_module_of_one_sample_is_run_one_by_one(file):
    flags = {"weights": None, "seed": 0, "sequence": None}
    assert load_batched(f"{file}:one_by_one", None, 8, **flags).example_inputs[0].shape[0] == 1
    with pytest.raises(UserError, match="cannot trace"):
        load_batched(f"{file}:one_by_one", 8, 8, **flags)


def test_open_sizes_of_a_program_are_those_of_its_example(tmp_path):
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    x = torch.randn(2, 3, 9, 9)
    sizes = ({0: torch.export.Dim("batch", min=1, max=8)},)
    torch.export.save(torch.export.export(net.eval(), (x,), dynamic_shapes=sizes), tmp_path / "open.pt2")
    loaded = load_model(str(tmp_path / "open.pt2"))
    torch.testing.assert_close(loaded.module(x)[0], net(x))
    assert all(
        isinstance(size, int)
        for node in loaded.module.graph.nodes
        if isinstance(node.meta.get("val"), torch.Tensor)
        for size in node.meta["val"].shape
    )
    assert [layer.name for layer in loaded.graph.products()] == ["0", "4"]


def test_a_truncated_normal_ends_where_nothing_is_drawn():
    """torch draws again until all is in range: without end, where memory held large numbers and draws are skipped."""

    def stop(*_):
        raise TimeoutError("still drawing")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(10)
    try:
        with _cheaply("cpu"):
            nn.init.trunc_normal_(torch.full((8,), 1e9))
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
