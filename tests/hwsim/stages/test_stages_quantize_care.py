"""`hwsim quantize` on what users bring: other weights than the plan's, several outputs, labels that are no classes."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from hwsim.cli.main import run
from hwsim.model.load import load_model
from quant.qmodel import QuantizedModel

NETS = """
import torch
from torch import nn

class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.trunk, self.first, self.second = nn.Linear(8, 16), nn.Linear(16, 4), nn.Linear(16, 2)

    def forward(self, x):
        x = self.trunk(x).relu()
        return self.first(x), self.second(x)

class Gram(nn.Module):
    def forward(self, x):
        return x @ x.transpose(1, 2)

def one():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4)), (torch.zeros(1, 8),)

def two():
    torch.manual_seed(0)
    return Two(), (torch.zeros(1, 8),)

class Maps(nn.Module):
    def __init__(self):
        super().__init__()
        self.map, self.box = nn.Conv2d(3, 5, 3, padding=1), nn.Linear(3, 4)

    def forward(self, x):
        maps, box = self.map(x), self.box(x.mean((2, 3)))
        return maps, box.masked_fill(box < 0, -torch.inf), box.mean() + 1, maps.argmax(1), box[:, :0]

class NumberFirst(Maps):
    def forward(self, x):
        return super().forward(x)[3], super().forward(x)[2], super().forward(x)[0]

def maps():
    torch.manual_seed(0)
    return Maps(), (torch.zeros(1, 3, 6, 6),)

def number_first():
    torch.manual_seed(0)
    return NumberFirst(), (torch.zeros(1, 3, 6, 6),)

def gram():
    return Gram(), (torch.zeros(1, 8, 4),)

def labelled():
    generator = torch.Generator().manual_seed(1)
    return [(torch.randn(8, generator=generator), 0.5) for _ in range(32)]
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(NETS)
    (tmp_path / "pd.yaml").write_text("steps: [mse, pd]\npd: {iterations: 12}\n")
    rng = np.random.default_rng(0)
    x = rng.normal(size=(48, 8)).astype(np.float32)
    np.savez(tmp_path / "x.npz", x=x)
    np.savez(tmp_path / "values.npz", x=x, y=rng.normal(size=48))
    np.savez(tmp_path / "maps.npz", x=rng.normal(size=(24, 3, 6, 6)).astype(np.float32))
    np.savez(tmp_path / "gram.npz", x=rng.normal(size=(48, 8, 4)).astype(np.float32))
    for name, factor in (("a", 1.0), ("b", 2.0)):
        weights = {"0.weight": (16, 8), "0.bias": (16,), "2.weight": (4, 16), "2.bias": (4,)}
        generator = torch.Generator().manual_seed(2)
        save_file(
            {key: factor * torch.randn(shape, generator=generator) for key, shape in weights.items()},
            f"{name}.safetensors",
        )
    return tmp_path


def quantize(*more: str, model: str = "one", data: str = "x.npz") -> int:
    return run(["--quiet", "quantize", "-m", f"net.py:{model}", "--calibration-data", data, "-o", "q", *more])


def source(place):
    return json.loads((place / "q" / "source.json").read_text())


def test_a_plan_for_a_file_of_weights_is_not_carried_out_on_others(place, capsys):
    assert (
        run(
            ["--quiet", "plan", "-t", "edge_gpu", "-m", "net.py:one", "--weights", "a.safetensors", "-o", "p"]
        )
        == 0
    )
    assert quantize("--plan", "p") == 2
    err = capsys.readouterr().err
    assert err.splitlines()[-1].startswith(
        "hwsim: error: --weights is missing: the plan was made for weights of file, a."
    )
    assert not (place / "q").exists() or not list((place / "q").glob("*.safetensors"))
    assert quantize("--plan", "p", "--weights", "a.safetensors") == 0
    assert source(place)["remarks"] == []
    assert quantize("--plan", "p", "--weights", "b.safetensors") == 0
    assert source(place)["remarks"][0].startswith("the plan was made for weights of file, a.safetensors")


def test_rounding_is_learned_for_the_first_of_two_outputs(place):
    assert quantize("--scheme", "w3a8", "--recipe", "pd.yaml", model="two") == 0
    assert [verdict["item"] for verdict in source(place)["referee"]] == ["mse", "pd"]
    told = "the referee added up the divergences of all outputs that hold fractions"
    assert told in source(place)["remarks"]
    assert not (place / "q" / "pd.part").exists()


def test_a_head_of_its_own_costs_error_in_the_plan(place):
    """What feeds the second output alone is no layer without an error."""
    assert run([
        "--quiet", "plan", "-t", "edge_gpu", "-m", "net.py:two", "--calibration-data", "x.npz", "--objective", "error",
        "--max-weight-memory", "1KiB", "--measured", "16", "-o", "p",
    ]) == 0  # fmt: skip
    tables = json.loads((place / "p" / "tables.json").read_text())
    errors = {
        layer["name"]: {option["scheme"]: option["error"] for option in layer["options"]}
        for layer in tables["layers"]
    }
    assert errors["second"]["w4a4"] > 100 * errors["second"]["w8a8"] > 0
    assert "head classes and 1 further output as numbers" in (place / "p" / "report.md").read_text()


def test_later_outputs_are_told_beside_the_figures(place, capsys):
    """Against a calculation by hand."""
    assert quantize("--scheme", "w2a8", model="two") == 0
    capsys.readouterr()
    assert run(["--quiet", "evaluate", "q", "--data", "x.npz", "--json"]) == 0
    (remark,) = (text for text in json.loads(capsys.readouterr().out)["remarks"] if "outputs" in text)
    found = float(
        remark.removeprefix("figures of the first of 2 outputs; relative squared errors of the others: ")
    )
    loaded = load_model("net.py:two")
    quantized = QuantizedModel.load(place / "q", loaded.module).integer()
    x = torch.from_numpy(np.load("x.npz")["x"])
    with torch.no_grad():
        pairs = [(quantized(row[None])[1], loaded.module(row[None])[1]) for row in x]
    error, square = (
        sum(float(value) for value in column)
        for column in zip(*(((a - b).square().sum(), b.square().sum()) for a, b in pairs), strict=True)
    )
    assert found == pytest.approx(error / square, rel=0.01)
    assert found > 0.01


@pytest.mark.parametrize("model", ["maps", "number_first"])
def test_unusual_outputs_neither_crash_nor_decide(place, model, capsys):
    """Infinite, empty, without axes, whole numbers: what is finite and fractional counts."""
    assert quantize("--scheme", "w6a8", "--recipe", "mse+gptq+bc", model=model, data="maps.npz") == 0
    verdicts = {verdict["item"]: verdict for verdict in source(place)["referee"]}
    assert verdicts["mse"]["kept"]
    assert all(0 < verdict["after"] < 1 for verdict in verdicts.values())
    assert run(["--quiet", "evaluate", "q", "--data", "maps.npz"]) == 0
    assert "nan" not in capsys.readouterr().out


@pytest.mark.parametrize("count", [9, 12, 15])
def test_held_out_samples_are_no_copies(place, count):
    """Two batches of eight would hold copies of one sample out."""
    np.savez(place / "few.npz", x=np.random.default_rng(3).normal(size=(count, 8)).astype(np.float32))
    assert quantize("--scheme", "w4a8", "--recipe", "mse", model="one", data="few.npz") == 0
    assert source(place)["calibration"]["count"] == count // 2 * 2


def test_without_stored_weights_there_is_no_rounding_to_learn(place):
    assert quantize("--scheme", "w8a8", "--recipe", "pd.yaml", model="gram", data="gram.npz") == 0


@pytest.mark.parametrize("data", ["values.npz", "net.py:labelled"])
def test_labels_that_are_no_classes_are_told_and_left(data, place, capsys):
    assert quantize("--scheme", "w4a8", data=data) == 0
    assert capsys.readouterr().err.count("labels hold fractions") <= 1  # once for each source
    assert run(["--quiet", "evaluate", "q", "--data", data, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert "top1" not in found["metrics"] and any("no accuracy" in remark for remark in found["remarks"])


def test_ranges_and_a_recipe_are_not_both_given(place, capsys):
    assert quantize("--scheme", "w4a4", "--recipe", "bc", "--range-method", "minmax") == 2
    assert "add mse or percentile to it instead" in capsys.readouterr().err
    assert quantize("--scheme", "w4a4", "--recipe", "bc") == 0
    assert any("clips no ranges" in remark for remark in source(place)["remarks"])
    assert quantize("--scheme", "w4a4", "--recipe", "mse+bc") == 0
    assert not any("clips no ranges" in remark for remark in source(place)["remarks"])


def test_a_recipe_takes_the_place_of_the_schemes_own(place):
    assert quantize("--scheme", "w4a4+mse", "--recipe", "mse+bc") == 0
    layers = json.loads((place / "q" / "quantized.json").read_text())["layers"]
    assert {layer["scheme"] for layer in (layers.values() if isinstance(layers, dict) else layers)} == {
        "w4a4"
    }


def test_a_mistake_in_the_weights_is_one_line(place, capsys):
    save_file({"nothing": torch.zeros(1)}, "c.safetensors")
    assert quantize("--scheme", "w4a4", "--weights", "c.safetensors") == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_an_empty_recipe_and_a_directory_that_is_not_there_are_named(place, capsys):
    for empty in ("", "+"):
        assert quantize("--scheme", "w4a4", "--recipe", empty) == 2
        assert "--recipe is empty" in capsys.readouterr().err
    assert run(["--quiet", "evaluate", "q/nope", "--data", "x.npz"]) == 2
    assert "q/nope: no such directory" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--sequence", "12"], "--sequence: net.py:one has no length to choose"),
        (["--tokenizer", "t.json"], "--tokenizer: there is no text to read"),
        (["--tokenizer", "t.json", "--calibration-data", "x.npz"], "--tokenizer: data x.npz are no text"),
        (["--recipe", "position.yaml"], "bc.axes: one bias a position has no integer operator"),
    ],
)
def test_what_would_not_be_heeded_is_refused(place, capsys, flags, told):
    (place / "position.yaml").write_text("steps: [mse, bc]\nbc: {axes: position}\n")
    command = ["--quiet", "quantize", "--scheme", "w8a8", "--model", "net.py:one", "-o", "q", *flags]
    assert run(command) == 2
    err = capsys.readouterr().err
    assert told in err and err.count("\n") == 1
    assert not (place / "q").exists()
