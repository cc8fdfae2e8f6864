"""``--config``: precedence, repeating a run from the file beside it, one line for every mistake."""

import json
from pathlib import Path

import pytest

from hwsim.cli.common import key, walk
from hwsim.cli.main import command, run
from hwsim.config import config_text, read_config

ROOT = Path(__file__).resolve().parents[3]
CONV = f"{ROOT}/tests/small_models.py:conv_net"


def dry(capsys, *arguments: str) -> dict:
    assert run(["plan", "--dry-run", "--json", *arguments]) == 0
    return json.loads(capsys.readouterr().out)


def test_command_line_before_file_before_default(tmp_path, capsys):
    file = tmp_path / "flags.yaml"
    file.write_text(f"target: mcu_m7\nmodel: {CONV}\nmax_latency: 4ms\nbits: 8\n")
    found = dry(capsys, "--config", str(file))
    assert found["target"] == "mcu_m7" and found["model"] == CONV
    assert dry(capsys, "--config", str(file), "--target", "edge_gpu")["target"] == "edge_gpu"
    assert dry(capsys, "--target", "edge_gpu", "--config", str(file))["target"] == "edge_gpu"
    wide = dry(capsys, "--config", str(file), "--bits", "2,4,8")
    assert wide["schemes_offered"] > found["schemes_offered"]  # bits: 8 of the file held before


def test_every_flag_of_every_verb_can_stand_in_the_file(tmp_path):
    passing = {"config", "help", "quiet", "log-level", "debug"}
    for words, found in walk(command()):
        flags = {key(param) for param in found.params} - passing
        if not flags or words in ((), ("target",), ("model",)):
            continue
        assert any(param.name == "config" for param in found.params), words
        file = tmp_path / "flags.yaml"
        file.write_text("".join(f"{flag}: 1\n" for flag in sorted(flags)))
        assert set(read_config(file, " ".join(words), flags)) == flags


def test_the_kept_file_repeats_the_run(tmp_path, capsys):
    first, second = tmp_path / "first", tmp_path / "second"
    common = ["plan", "--quiet", "-t", "edge_gpu", "-m", CONV, "--pin", "head=w8a8", "--forbid", "stem=fp"]
    assert run([*common, "--max-latency", "4ms", "-o", str(first)]) == 0
    assert run(["plan", "--quiet", "--config", str(first / "config.yaml"), "-o", str(second)]) == 0
    capsys.readouterr()
    assert (first / "plan.json").read_bytes() == (second / "plan.json").read_bytes()
    kept = [(d / "config.yaml").read_text().replace(str(d), "") for d in (first, second)]
    assert kept[0] == kept[1]
    assert "schema_version: 1\nverb: plan\n" in kept[0] and "max-latency: 4ms" in kept[0]


def test_all_values_come_back_as_they_were(tmp_path):
    values = {
        "target": "no", "max_latency": "1e-3s", "pin": ["head=w8a8", "a: b"], "seed": 7, "max_error": 0.1,
        "explain": True, "weights": Path("weights #1.safetensors"), "objective": None, "json": True,
    }  # fmt: skip
    file = tmp_path / "config.yaml"
    file.write_text(config_text("plan", values))
    found = read_config(
        file, "plan", ["target", "max-latency", "pin", "seed", "max-error", "explain", "weights"]
    )
    assert {name: setting.value for name, setting in found.items()} == {
        "target": "no", "max-latency": "1e-3s", "pin": ["head=w8a8", "a: b"], "seed": 7, "max-error": 0.1,
        "explain": True, "weights": "weights #1.safetensors",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("seed: 1\nmax-latencyy: 4ms\n", ":2:1: 'max-latencyy' is no flag of hwsim plan; did you mean 'max-lat"),
        ("target: edge_gpu\nseed: abc\n", ":2:1: seed: "),
        ("seed: -1\n", ":1:1: seed: "),
        ("target: [edge_gpu]\n", "takes one value"),
        ("target: {name: edge_gpu}\n", "not nested"),
        ("- target\n", "holds no flags"),
        ("", "holds no flags"),
        ("target: a\ntarget: b\n", ":2:1: "),
        ("target: 'a\n", "not valid YAML"),
        ("verb: quantize\n", "flags of `hwsim quantize`"),
        ("schema_version: 2\n", "schema_version 2"),
        ("target: *x\n", "aliases"),
    ],
)  # fmt: skip
def test_mistakes_in_the_file_are_one_line_with_their_place(text, says, tmp_path, capsys):
    file = tmp_path / "flags.yaml"
    file.write_text(text)
    assert run(["plan", "--config", str(file), "--model", CONV]) == 2
    message = capsys.readouterr().err.strip()
    assert says in message and str(file) in message
    assert message.count("\n") == 0


@pytest.mark.parametrize(("name", "says"), [("missing.yaml", "no such file"), (".", "is a directory")])
def test_files_that_are_none(name, says, tmp_path, capsys):
    assert run(["plan", "--config", str(tmp_path / name)]) == 2
    assert says in capsys.readouterr().err


def test_flags_of_other_verbs(tmp_path, capsys):
    file = tmp_path / "flags.yaml"
    file.write_text("targets: [edge_gpu, mcu_m7]\njson: true\nquiet: true\n")
    assert run(["target", "validate", "--config", str(file)]) == 0
    assert [entry["valid"] for entry in json.loads(capsys.readouterr().out)] == [True, True]
    file.write_text("model: resnet18\nproducts: true\n")
    assert run(["model", "show", "--config", str(file)]) == 0
    assert "layer1.0.conv1" in capsys.readouterr().out
