"""The verbs `hwsim compile` and `hwsim run` end to end on a small network."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("tvm")

NETWORK = Path(__file__).resolve().parents[1] / "compile" / "tiny_networks.py"


def hwsim(*arguments):
    program = "import sys; from hwsim.cli.main import run; sys.exit(run(sys.argv[1:]))"
    command = [sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_compile_then_run(tmp_path):
    art = tmp_path / "art"
    made = hwsim("compile", "--scheme", "w8a8", "--model", f"{NETWORK}:transformer", "-o", art, "--json")
    assert made.returncode == 0, made.stderr
    assert json.loads(made.stdout)["integer"]["integer_share"] == 1.0
    np.savez(tmp_path / "x.npz", x=np.ones((1, 3, 32, 32), np.float32))
    ran = hwsim("run", art, "--input", tmp_path / "x.npz", "--json", "-o", tmp_path / "y.npz", "--repeat", 3)
    assert ran.returncode == 0, ran.stderr
    document = json.loads(ran.stdout)
    values = np.load(tmp_path / "y.npz")["output0"].ravel()
    assert document["top"][0]["index"] == int(values.argmax())
    assert document["median_ms"] > 0
    wrong = hwsim("run", art, "--input", tmp_path / "y.npz")
    assert wrong.returncode == 2
    assert "the model takes" in wrong.stderr


def test_the_model_is_loaded_once(tmp_path, monkeypatch):
    from hwsim.model import load
    from hwsim.stages.compile import CompileRequest, run_compile

    specs = []
    real = load.load_model
    monkeypatch.setattr(load, "load_model", lambda spec, **flags: specs.append(spec) or real(spec, **flags))
    run_compile(CompileRequest(tmp_path / "art", scheme="w8a8", model=f"{NETWORK}:cnn"))
    assert len(specs) == 1


def test_a_quantized_model_takes_the_batch_asked_for(tmp_path):
    from hwsim.errors import UserError
    from hwsim.stages.compile import CompileRequest, run_compile
    from hwsim.stages.quantize import QuantizeRequest, run_quantize

    made = run_quantize(QuantizeRequest(tmp_path / "q", scheme="w8a8", model=f"{NETWORK}:transformer"))
    manifest = run_compile(CompileRequest(tmp_path / "art", quantized=made.directory, batch=3)).manifest
    assert manifest["inputs"][0]["shape"][0] == 3
    with pytest.raises(UserError, match="--model"):
        run_compile(CompileRequest(tmp_path / "art", quantized=made.directory, model="resnet18"))


def test_image_is_prepared_like_the_calibration(tmp_path):
    """Same pixels as hwsim.data.images gives to the torch model."""
    from PIL import Image

    from hwsim.data.dataset import InputForm
    from hwsim.data.images import ImageForm
    from hwsim.runtime.image import read_image

    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    config = {"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.4), "crop_pct": 0.9, "interpolation": "bicubic"}
    form = ImageForm.of(InputForm((torch.zeros(1, 3, 32, 32),), config))
    for size in ((80, 60), (34, 33)):
        path = tmp_path / "image.png"
        Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)).save(path)
        found = read_image(path, (1, 3, 32, 32), config)
        with Image.open(path) as image:
            expected = form.prepare(image).numpy()[None]
        np.testing.assert_allclose(found, expected, atol=1e-6)


def test_a_lone_array_is_the_lone_input_and_outputs_go_where_they_are_asked(tmp_path):
    from hwsim.errors import UserError
    from hwsim.stages.compile import CompileRequest, run_compile
    from hwsim.stages.run import run_artifact

    run_compile(CompileRequest(tmp_path / "art", scheme="w8a8", model=f"{NETWORK}:transformer"))
    value = np.random.default_rng(0).normal(size=(1, 3, 32, 32)).astype(np.float32)
    np.savez(tmp_path / "any.npz", pictures=value)
    found = run_artifact(tmp_path / "art", tmp_path / "any.npz", output=tmp_path / "new" / "out.txt")
    written = np.load(tmp_path / "new" / "out.txt.npz")
    assert np.array_equal(written["output0"], found.outputs["output0"])
    np.savez(tmp_path / "two.npz", pictures=value, other=value)
    with pytest.raises(UserError, match="the model takes"):
        run_artifact(tmp_path / "art", tmp_path / "two.npz")
    (tmp_path / "no.npz").write_bytes(b"none")
    with pytest.raises(UserError, match=r"not an \.npz"):
        run_artifact(tmp_path / "art", tmp_path / "no.npz")
    with pytest.raises(UserError, match="it is a file"):
        run_artifact(tmp_path / "art", tmp_path / "any.npz", output=tmp_path / "no.npz" / "out.npz")


def test_a_batch_that_the_file_does_not_take_is_refused(tmp_path):
    """A .pt2 brings inputs of its own size: another batch would be planned and compiled for in name only."""
    import torch

    import hwsim as hwsim_api
    from hwsim.errors import UserError
    from hwsim.simulate.graph_source import layer_graph
    from hwsim.stages.compile import CompileRequest, run_compile

    program = torch.export.export(torch.nn.Linear(4, 3), (torch.zeros(2, 4),))
    torch.export.save(program, tmp_path / "net.pt2")
    name = str(tmp_path / "net.pt2")
    calls = (
        lambda: run_compile(CompileRequest(tmp_path / "a", scheme="w8a8", model=name, batch=4)),
        lambda: hwsim_api.plan(target="edge_gpu", model=name, batch=4, output_dir=tmp_path / "p"),
        lambda: layer_graph(name, batch=4),
    )
    for call in calls:
        with pytest.raises(UserError, match=r"--batch 4: .* brings its own inputs of 2x4"):
            call()
    assert layer_graph(name, batch=2).products()


def test_a_file_in_the_place_of_the_folder_is_told_before_the_work(tmp_path):
    from hwsim.errors import UserError
    from hwsim.stages.compile import CompileRequest, run_compile
    from hwsim.stages.quantize import QuantizeRequest, run_quantize

    (tmp_path / "taken").write_text("")
    for verb, request in ((run_compile, CompileRequest), (run_quantize, QuantizeRequest)):
        with pytest.raises(UserError, match=r"taken: cannot write \(it is a file\)"):
            verb(request(tmp_path / "taken", scheme="w8a8", model=f"{NETWORK}:transformer"))
