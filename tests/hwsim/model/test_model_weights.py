"""Weights from files, the hub and a seed: what is accepted, what is refused, and that a seed means something."""

import importlib.util
import os
import pickle
import re
import socket
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from hwsim.errors import UserError
from hwsim.model import hub
from hwsim.model.load import load_model
from hwsim.model.weights import fill_random, load_file, sha256_of_tensors

NETS = Path(__file__).with_name("nets.py")


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(11, 6)
        self.first, self.head = nn.Linear(6, 8), nn.Linear(6, 11, bias=False)
        self.norm = nn.BatchNorm1d(8)
        self.head.weight = self.table.weight


def _state(seed=5):
    net = Net()
    fill_random(net, seed)
    return net.state_dict()


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod."])
def test_prefixed_files_load(tmp_path, suffix, prefix):
    path = tmp_path / f"w{suffix}"
    state = {prefix + name: tensor.clone() for name, tensor in _state().items()}
    save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    net = Net()
    load_file(net, path)
    assert all(torch.equal(tensor, net.state_dict()[name]) for name, tensor in _state().items())


@pytest.mark.parametrize("wrapper", ["state_dict", "model"])
def test_wrapped_checkpoints_load(tmp_path, wrapper):
    path = tmp_path / "w.pth"
    torch.save({wrapper: _state(), "epoch": 3, "name": "x"}, path)
    net = Net()
    load_file(net, path)
    assert torch.equal(net.first.weight, _state()["first.weight"])


def test_one_name_of_a_tied_weight_is_enough(tmp_path):
    state = _state()
    del state["head.weight"]
    torch.save(state, tmp_path / "w.pth")
    net = Net()
    load_file(net, tmp_path / "w.pth")
    assert net.head.weight is net.table.weight
    assert torch.equal(net.head.weight, _state()["table.weight"])


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: {"net": state, "epoch": 3},
        lambda state: {"params_ema": {f"net.{name}": tensor for name, tensor in state.items()}},
        lambda state: {name: tensor.to_sparse() for name, tensor in state.items()},
    ],
)
def test_state_dicts_under_any_name_and_prefix(tmp_path, wrap):
    torch.save(wrap(_state()), tmp_path / "w.pth")
    net = Net()
    load_file(net, tmp_path / "w.pth")
    assert torch.equal(net.first.weight, _state()["first.weight"])


def _write(path, kind):
    state = _state()
    if kind == "several":
        state = {"generator": state, "discriminator": state}
    elif kind == "no numbers":
        state["first.weight"][0, 0] = float("nan")
    elif kind == "missing key":
        del state["first.bias"]
    elif kind == "surplus key":
        state["other.weight"] = torch.ones(2)
    elif kind == "wrong shape":
        state["first.weight"] = torch.ones(8, 7)
    elif kind == "no tensors":
        state = {"a": 1}
    torch.save(state, path)
    if kind == "truncated":
        path.write_bytes(path.read_bytes()[:-200])
    elif kind == "noise":
        path.write_bytes(np.random.default_rng(0).bytes(500))
    elif kind == "empty":
        path.write_bytes(b"")


class Bomb:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("missing key", "lacks first.bias"),
        ("surplus key", "unexpected other.weight"),
        ("wrong shape", re.escape("first.weight has shape (8, 7), the model needs (8, 6)")),
        ("no tensors", "no state dict"),
        ("several", "several state dicts"),
        ("no numbers", "first.weight holds NaN"),
        ("truncated", "not a valid|cannot be read"),
        ("noise", "refused|not a valid"),
        ("empty", "not a valid|cannot be read"),
    ],
)
def test_unfit_files_are_one_clear_line(tmp_path, kind, words):
    path = tmp_path / "w.pth"
    _write(path, kind)
    with pytest.raises(UserError, match=words) as caught:
        load_file(Net(), path)
    assert str(caught.value).startswith(f"--weights {path}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("form", ["plain pickle", "zip"])
def test_a_pickle_bomb_does_not_go_off(tmp_path, form):
    marker, path = tmp_path / "boom", tmp_path / "w.pth"
    if form == "zip":
        torch.save({"first.weight": Bomb(marker)}, path)
        assert zipfile.is_zipfile(path)
    else:
        path.write_bytes(pickle.dumps(Bomb(marker)))
    with pytest.raises(UserError, match="nothing in it is executed") as caught:
        load_file(Net(), path)
    assert "\n" not in str(caught.value)
    assert not marker.exists()


@pytest.mark.parametrize("content", [b"", b"\xff" * 64, b'\x08\x00\x00\x00\x00\x00\x00\x00{"a": 1'])
def test_corrupted_safetensors(tmp_path, content):
    path = tmp_path / "w.safetensors"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"not a valid \.safetensors file"):
        load_file(Net(), path)


def test_absent_and_unreadable_files(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        load_file(Net(), tmp_path / "none.pth")
    with pytest.raises(UserError, match="no such file"):
        load_file(Net(), tmp_path)


def test_the_same_seed_gives_the_same_tensors_on_any_number_of_threads():
    spec, before, found = "timm:mobilenetv2_035[in_chans=1,num_classes=3]", torch.get_num_threads(), {}
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)
        try:
            found[threads] = load_model(spec, seed=4).weights
        finally:
            torch.set_num_threads(before)
    assert found[1] == found[2] == found[5]
    assert found[1].seed == 4
    assert load_model(spec, seed=5).weights.sha256 != found[1].sha256


def test_random_weights_have_the_stated_variance():
    net = nn.Sequential(nn.Linear(400, 300), nn.Conv2d(16, 64, 3), nn.LayerNorm(9))
    fill_random(net, 0)
    assert net[0].weight.std().item() == pytest.approx(400**-0.5, rel=0.02)
    assert net[1].weight.std().item() == pytest.approx((2 / 144) ** 0.5, rel=0.03)
    assert torch.equal(net[2].weight, torch.ones(9))
    assert not net[0].bias.any()


def test_random_networks_keep_their_signal_alive():
    for name in ("timm:resnet18", "timm:regnetx_002", "timm:mobilenetv2_035"):
        loaded = load_model(name)
        assert loaded.weights.kind == "random"
        assert loaded.illustrative
        with torch.no_grad():
            spread = loaded.module(*loaded.example_inputs)[0].std().item()
        assert 0.02 < spread < 20


def test_hash_of_tensors_sees_names_shapes_types_and_bytes():
    base = {"a": torch.arange(6.0)}
    variants = [
        {"b": torch.arange(6.0)},
        {"a": torch.arange(6.0).reshape(2, 3)},
        {"a": torch.arange(6.0).double()},
        {"a": torch.arange(1.0, 7.0)},
        {},
    ]
    hashes = {sha256_of_tensors(item) for item in [base, *variants]}
    assert len(hashes) == 6
    assert sha256_of_tensors({"a": torch.arange(6.0)}) == sha256_of_tensors(base)


def test_a_hub_out_of_reach_costs_no_time_and_is_said_once(monkeypatch, caplog):
    hub.reachable.cache_clear()
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setenv("HF_ENDPOINT", "https://192.0.2.1")
    asked = []

    def refuse(address, timeout=None):
        asked.append((address, timeout))
        raise OSError("unreachable")

    for name in ("https_proxy", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(socket, "create_connection", refuse)
    with caplog.at_level("WARNING", logger="hwsim"):
        loaded = load_model("timm:resnet18.a1_in1k")
    hub.reachable.cache_clear()
    assert asked == [(("192.0.2.1", 443), hub.PROBE_SECONDS)]
    assert loaded.weights.kind == "random"
    lines = [
        record.getMessage() for record in caplog.records if "no pretrained weights" in record.getMessage()
    ]
    assert len(lines) == 1
    assert "\n" not in lines[0]
    assert "timm:resnet18.a1_in1k" in lines[0]


def test_weights_of_a_cached_hub_file_are_used(tmp_path, monkeypatch):
    import timm

    path = tmp_path / "model.safetensors"
    net = timm.create_model("resnet18")
    save_file(net.state_dict(), path)
    monkeypatch.setattr(hub, "fetch", lambda repository, file: path)
    loaded = load_model("resnet18")
    assert loaded.weights.kind == "pretrained"
    assert loaded.weights.source == "timm/resnet18.a1_in1k"
    assert not loaded.illustrative
    assert torch.equal(loaded.module.state_dict()["fc.weight"], net.fc.weight)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("timm:vit_base_patch16_225", "did you mean vit_base_patch16_224"),
        ("timm:resnet18[nosuch=1]", "timm cannot build it"),
        ("hf:no-such/config.json", "cannot read"),
        ("hf:someone/unheard-of", "hub cannot be reached"),
        ("hf:bert-base-uncased[hidden_size=10]", "transformers cannot build|multiple"),
        ("none.pt2", "no such file"),
        ("none.py:build", "no such file"),
        (f"{NETS}:nothing", "has no function 'nothing'"),
        (f"{NETS}:wrong_type", "returned str, not a torch.nn.Module"),
        (
            f"{NETS}:branching",
            r"cannot trace this model at .*nets.py:\d+, 'return x if x.sum\(\) > 0 else -x'",
        ),
        (f"{NETS}:cifar_resnet[depht=20]", "unexpected keyword argument 'depht'"),
    ],
)
def test_models_that_cannot_be_had(spec, words, monkeypatch, capsys):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    hub.reachable.cache_clear()
    with pytest.raises(UserError, match=words) as caught:
        load_model(spec)
    assert "\n" not in str(caught.value)
    assert "def forward" not in capsys.readouterr().err  # nor does torch list the graph so far


def test_a_saved_program_loads_with_its_own_weights(tmp_path):
    spec = importlib.util.spec_from_file_location("nets", NETS)
    nets = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(nets)
    module, inputs = nets.einsum_attention()
    path = tmp_path / "net.pt2"
    torch.export.save(torch.export.export(module.eval(), inputs), path)
    loaded = load_model(str(path))
    expected = module(inputs[0].clone())
    assert loaded.weights.kind == "file"
    assert {layer.name for layer in loaded.graph.products()} == {"qkv", "qk", "av", "proj"}
    assert torch.allclose(loaded.module(inputs[0].clone())[0], expected, atol=1e-5)
    path.write_bytes(b"not a program")
    with pytest.raises(UserError, match="not a program saved by"):
        load_model(str(path))
    with pytest.raises(UserError, match="brings its own weights"):
        load_model(str(path), weights=path)


_NETS = """
import torch
def random():
    return torch.nn.Linear(4, 3), torch.randn(1, 4)
def given():
    net = torch.nn.Linear(4, 3)
    torch.nn.init.ones_(net.weight)
    torch.nn.init.zeros_(net.bias)
    return net, torch.randn(1, 4)
"""


def test_a_factory_with_random_weights_follows_the_seed_and_says_so(tmp_path):
    path = tmp_path / "nets.py"
    path.write_text(_NETS)
    first, again, other = (load_model(f"{path}:random", seed=seed) for seed in (3, 3, 4))
    assert first.illustrative
    assert first.weights.kind == "random"
    assert first.weights == again.weights
    assert first.weights.sha256 != other.weights.sha256
    given = load_model(f"{path}:given", seed=3)
    assert given.weights.kind == "file"
    assert not given.illustrative


def test_inputs_that_were_assumed_are_said(tmp_path, caplog):
    (tmp_path / "bare.py").write_text("from torch import nn\ndef make(): return nn.Conv2d(3, 4, 16)\n")
    with caplog.at_level("WARNING", logger="hwsim"):
        assert load_model(f"{tmp_path}/bare.py:make").example_inputs[0].shape == (1, 3, 224, 224)
    assert "no example inputs, so one picture of 1 x 3 x 224 x 224" in caplog.text
