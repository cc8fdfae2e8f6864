"""``hwsim plan`` as a user meets it: the files, the exit codes, the one-line mistakes."""

import json
import os
import pickle
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from hwsim.cli.main import run

ROOT = Path(__file__).resolve().parents[3]
CONV = f"{ROOT}/tests/small_models.py:conv_net"
VIT = f"{ROOT}/tests/small_models.py:transformer"
FILES = (
    "plan.json",
    "tables.json",
    "profile.json",
    "report.json",
    "report.html",
    "report.md",
    "trace.json",
    "config.yaml",
    "graph.json",
)


def plan(*arguments: str) -> int:
    return run(["--quiet", "plan", *arguments])


@pytest.fixture(scope="module")
def planned(tmp_path_factory):
    out = tmp_path_factory.mktemp("plan")
    assert plan("--target", "edge_gpu.yaml", "--model", VIT, "-o", str(out)) == 0
    return out


def test_writes_all_files(planned):
    assert sorted(os.listdir(planned)) == sorted(FILES)
    for name in FILES:
        if name.endswith(".json"):
            json.loads((planned / name).read_text())


def test_same_seed_same_bytes(planned, tmp_path):
    assert plan("--target", "edge_gpu.yaml", "--model", VIT, "-o", str(tmp_path)) == 0
    for name in ("plan.json", "tables.json", "profile.json", "trace.json"):
        assert (tmp_path / name).read_bytes() == (planned / name).read_bytes(), name


def test_resume_reuses_the_profile_and_gives_the_same_plan(planned, tmp_path, monkeypatch):
    from hwsim.stages import error_profile

    (tmp_path / "profile.json").write_bytes((planned / "profile.json").read_bytes())

    def never(*_args: object, **_kwargs: object) -> None:
        raise AssertionError("profiled again")

    monkeypatch.setattr(error_profile, "profile_errors", never)
    assert plan("--target", "edge_gpu.yaml", "--model", VIT, "-o", str(tmp_path), "--resume") == 0
    assert (tmp_path / "plan.json").read_bytes() == (planned / "plan.json").read_bytes()


def test_default_is_as_accurate_as_uniform_w8a8_and_not_slower(planned):
    report = json.loads((planned / "report.json").read_text())
    rows = {row["name"]: row for row in report["comparison"]}
    assert rows["this plan"]["error"] <= rows["uniform w8a8"]["error"] * (1 + 1e-6)
    assert report["validation"]["predicted_cycles"] <= rows["uniform w8a8"]["cycles"] * 1.15


def test_plan_and_report_name_the_same_layers(planned):
    document = json.loads((planned / "plan.json").read_text())
    report = json.loads((planned / "report.json").read_text())
    products = [row["name"] for row in report["layers"] if row["error"] is not None]
    assert [layer["name"] for layer in document["layers"]] == products


def test_plan_holds_no_wall_clock_or_path(planned, tmp_path_factory):
    text = (planned / "plan.json").read_text()
    assert str(planned) not in text
    assert not {"seconds", "time", "date"} & set(json.loads(text))


def test_html_is_one_file_without_network(planned):
    links: list[str] = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag, attrs):
            found = dict(attrs)
            links.extend(found[key] for key in ("src", "href") if key in found and tag != "use")

    text = (planned / "report.html").read_text()
    Reader().feed(text)
    assert all(link.startswith("#") or link == "trace.json" for link in links)
    assert "http-equiv" not in text and "fetch(" not in text and "import(" not in text
    assert len(text) < 1_500_000


def test_infeasible_limit_exits_3_and_writes_no_plan(tmp_path, capsys):
    code = plan("--target", "edge_gpu", "--model", CONV, "-o", str(tmp_path), "--max-latency", "1ns")
    assert code == 3
    message = capsys.readouterr().err.strip()
    assert "latency" in message
    assert not (tmp_path / "plan.json").exists() and "earlier" not in message
    assert json.loads((tmp_path / "infeasible.json").read_text())
    (tmp_path / "plan.json").write_text("{}")
    assert plan("--target", "edge_gpu", "--model", CONV, "-o", str(tmp_path), "--max-latency", "1ns") == 3
    assert "the plan.json beside it is an earlier request's" in capsys.readouterr().err


def test_latency_limit_holds_in_the_replay(tmp_path):
    free = tmp_path / "free"
    assert plan("--target", "mobile_cpu", "--model", VIT, "-o", str(free), "--objective", "latency") == 0
    fastest = json.loads((free / "report.json").read_text())["validation"]["simulated_cycles"]
    clock = json.loads((free / "report.json").read_text())["clock_hz"]
    limit = 1.2 * fastest / clock
    tight = tmp_path / "tight"
    code = plan(
        "--target",
        "mobile_cpu",
        "--model",
        VIT,
        "-o",
        str(tight),
        "--max-latency",
        f"{limit * 1e9:.3f}ns",
        "--strict",
    )
    assert code == 0


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--target", "nosuch.yaml", "--model", CONV], "nosuch.yaml"),
        (["--target", "edge_gpu", "--model", "vit_bb"], "did you mean vit_b"),
        (["--target", "edge_gpu", "--model", CONV, "--max-latency", "4"], "--max-latency"),
        (["--target", "edge_gpu", "--model", CONV, "--max-energy", "4ms"], "--max-energy"),
        (["--target", "edge_gpu", "--model", CONV, "--bits", "w4"], "--bits"),
        (["--target", "edge_gpu", "--model", CONV, "--objective", "speed"], "--objective"),
        (["--target", "edge_gpu", "--model", CONV, "--weights", "missing.safetensors"], "no such file"),
        (["--target", "edge_gpu", "--model", CONV, "--weights", "."], "directory"),
        (["--target", "edge_gpu", "--model", "missing.py:net"], "missing.py"),
        (["--target", "edge_gpu", "--model", CONV, "--pin", "nosuchlayer=w8a8"], "nosuchlayer"),
        (["--target", "edge_gpu"], "--model"),
    ],
)
def test_mistakes_are_one_line_and_exit_2(arguments, says, tmp_path, capsys):
    assert plan(*arguments, "-o", str(tmp_path / "out")) == 2
    message = capsys.readouterr().err.strip()
    assert says in message
    assert message.count("\n") == 0
    assert "Traceback" not in message
    assert not (tmp_path / "out" / "plan.json").exists()


class Bomb:
    def __reduce__(self):
        return (os.system, ("touch exploded",))


def test_pickle_bomb_is_refused_and_does_not_go_off(tmp_path, capsys, monkeypatch, recwarn):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bomb.pth").write_bytes(pickle.dumps({"head.weight": Bomb()}))
    assert plan("--target", "edge_gpu", "--model", CONV, "--weights", "bomb.pth", "-o", "out") == 2
    assert "bomb.pth" in capsys.readouterr().err
    assert not (tmp_path / "exploded").exists()
    assert not (tmp_path / "out").exists()
    assert not [str(warning.message) for warning in recwarn if "pickle" in str(warning.message)]


def test_a_device_that_can_also_do_one_bit_plans_what_quantizers_can(tmp_path):
    """Nobody makes activations of one bit; the engine's other widths count."""
    device = tmp_path / "bnn.yaml"
    device.write_text(
        "schema_version: 1\nname: bnn\nclock_hz: 100 MHz\nunits: 1\n"
        "engines: [{macs_per_cycle: {w8a8: 16, w1a1: 512}}]\n"
        "memories: [{name: s, bytes: 64 KiB}, {name: d, bandwidth: 1 GB/s}]\npower_w: 1\n"
    )
    assert plan("--target", str(device), "--model", CONV, "-o", str(tmp_path / "out")) == 0
    layers = json.loads((tmp_path / "out" / "plan.json").read_text())["layers"]
    assert {layer["act_bits"] for layer in layers} <= {8, None}


def test_activations_that_overflow_in_the_replay_are_not_called_held(tmp_path):
    """A picture of 128 x 128 floats takes 64 KiB; the planner counts the network's inputs at a byte an element."""
    (tmp_path / "net.py").write_text(
        "import torch\nfrom torch import nn\n\ndef make():\n    return nn.Sequential(nn.Conv2d(1, 4, 3, 8, 1), "
        "nn.ReLU(), nn.Conv2d(4, 1, 3)), (torch.zeros(1, 1, 128, 128),)\n"
    )
    (tmp_path / "ram.yaml").write_text(
        "schema_version: 1\nname: ram\nclock_hz: 100 MHz\nunits: 1\nengines: [{macs_per_cycle: 1}]\n"
        "float_fallback: {macs_per_cycle: 2, bits: 32}\nmemories:\n"
        "  - {name: ram, bytes: 40 KiB, holds: [activations]}\n"
        "  - {name: flash, kind: flash, bytes: 1 MiB, bandwidth: 100 MB/s, holds: [weights]}\npower_w: 1\n"
    )
    found = plan(
        "-t", str(tmp_path / "ram.yaml"), "-m", f"{tmp_path}/net.py:make", "--objective", "error",
        "--max-latency", "1s", "--pin", "*=fp", "-o", str(tmp_path / "out"),
    )  # fmt: skip
    assert found == 0
    honoured = json.loads((tmp_path / "out" / "report.json").read_text())["not_honoured"]
    assert any("memory ram: the replay holds" in text and "40 KiB" in text for text in honoured), honoured


def test_the_report_says_what_its_figures_leave_out(tmp_path):
    """A table of 40,000 floats beside a product of 64 weights, and a convolution that stays closed."""
    source = tmp_path / "net.py"
    source.write_text(
        "import torch\nfrom torch import nn\n\nclass Net(nn.Module):\n    def __init__(self):\n"
        "        super().__init__()\n        self.table, self.line = nn.Embedding(5000, 8), nn.Linear(8, 8)\n"
        "        self.cube = nn.Conv3d(1, 2, 1)\n"
        "    def forward(self, ids):\n        x = self.line(self.table(ids))\n"
        "        return self.cube(x[:, None, None]).flatten(1)\n\n"
        "def make():\n    return Net(), (torch.zeros(1, 4, dtype=torch.long),)\n"
    )
    assert plan("--target", "edge_gpu", "--model", f"{source}:make", "-o", str(tmp_path / "out")) == 0
    warnings = json.loads((tmp_path / "out" / "report.json").read_text())["warnings"]
    assert any("lack the multiply-accumulates of cube (conv3d)" in text for text in warnings)
    assert any("156 KiB are embeddings, norms and biases in float32" in text for text in warnings), warnings


@pytest.mark.parametrize("name", ['a"b', "a\nb"])
def test_module_names_that_torch_cannot_write_are_named(name, tmp_path, capsys):
    source = tmp_path / "net.py"
    source.write_text(
        "import torch\nfrom torch import nn\n\nclass Net(nn.Module):\n    def __init__(self):\n"
        f"        super().__init__()\n        self.parts = nn.ModuleDict({{{name!r}: nn.Linear(4, 4)}})\n"
        f"    def forward(self, x):\n        return self.parts[{name!r}](x)\n\n"
        "def make():\n    return Net(), (torch.zeros(1, 4),)\n"
    )
    assert plan("--target", "edge_gpu", "--model", f"{source}:make", "-o", str(tmp_path / "out")) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and repr(f"parts.{name}") in err


def test_output_directory_that_is_a_file(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert plan("--target", "edge_gpu", "--model", CONV, "-o", str(tmp_path / "file")) == 2
    assert "cannot write" in capsys.readouterr().err


def test_explains_offers_alternatives_and_starts_from_a_plan(planned, tmp_path):
    limits = json.loads((planned / "plan.json").read_text())["totals"]
    asked = ["--max-latency", f"{1.1 * limits['latency'] * 1e9:.0f}ns", "--objective", "error,energy"]
    asked += ["--explain", "--alternatives", "2", "--warm-start", str(planned / "plan.json")]
    assert plan("--target", "edge_gpu.yaml", "--model", VIT, "-o", str(tmp_path), *asked) == 0
    document = json.loads((tmp_path / "plan.json").read_text())
    assert document["request"]["objective"] == ["error", "energy"]
    assert all(use["binding"] is not None for use in document["limits"])
    assert len(document["alternatives"]) == 2
    errors = [document["totals"]["error"], *(a["totals"]["error"] for a in document["alternatives"])]
    assert errors == sorted(errors)
    notes = json.loads((tmp_path / "report.json").read_text())["warnings"]
    assert sum(note.startswith("alternative") for note in notes) == 2
    assert any("latency" in note and ("1 % more" in note or "does not bind" in note) for note in notes)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--objective", "latency,latency"], "two different"),
        (["--objective", "error,speed"], "'speed'"),
        (["--warm-start", "missing.json"], "no such file"),
        (["--warm-start", __file__], "test_cli_plan.py"),
    ],
)
def test_mistakes_in_how_to_search(arguments, says, tmp_path, capsys):
    assert plan("--target", "edge_gpu", "--model", CONV, "-o", str(tmp_path), *arguments) == 2
    assert says in capsys.readouterr().err


def test_dry_run_writes_nothing(tmp_path, capsys):
    out = tmp_path / "out"
    assert plan("--target", "edge_gpu", "--model", CONV, "-o", str(out), "--dry-run", "--json") == 0
    assert json.loads(capsys.readouterr().out)["products"] == 4
    assert not out.exists()


def test_json_goes_to_stdout_alone(tmp_path):
    code = "from hwsim.cli.main import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "plan", "--target", "mcu_m7", "--model", CONV, "-o", str(tmp_path), "--json"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    report = json.loads(done.stdout)
    assert report["schema_version"] == 1
    assert report["target"] == "mcu_m7"


@pytest.mark.parametrize("model", [CONV, VIT])
def test_every_shipped_target_plans_or_says_why_not(model, tmp_path, capsys):
    from hwsim.target.load import list_targets

    for target in list_targets():
        out = tmp_path / str(target)
        code = plan("--target", str(target), "--model", model, "-o", str(out))
        assert code in (0, 3), (target, capsys.readouterr().err)
        if code == 0:
            check = json.loads((out / "report.json").read_text())["validation"]
            gap = abs(check["simulated_cycles"] / check["predicted_cycles"] - 1)
            assert gap <= check["bound"], (target, gap)


def test_weights_that_come_over_the_host_link(tmp_path):
    """ResNet-18 is larger than the 8 MB on an Edge TPU: the rest crosses USB in every inference."""
    assert plan("--target", "edge_tpu", "--model", "resnet18", "-o", str(tmp_path)) == 0
    check = json.loads((tmp_path / "report.json").read_text())["validation"]
    assert check["simulated_cycles"] == pytest.approx(check["predicted_cycles"], rel=check["bound"])
