"""``--json``: what stands in ``docs/json.md`` is what every verb prints, on stdout alone."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from hwsim.cli.common import walk
from hwsim.cli.main import command, run
from hwsim.report.document import Report

ROOT = Path(__file__).resolve().parents[3]
MODEL = f"{ROOT}/tests/small_models.py:transformer"


def documented() -> dict[str, list[set[str]]]:
    """Keys by command; after a semicolon further or other keys."""
    rows = re.findall(r"^\| (`hwsim .*?) \| (.*) \|$", (ROOT / "docs/json.md").read_text(), re.M)
    return {
        name.removeprefix("hwsim "): [set(re.findall(r"`([a-z_0-9]+)`", part)) for part in text.split(";")]
        for names, text in rows
        for name in re.findall(r"`(.*?)`", names)
    }


KEYS = documented()


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    out = tmp_path_factory.mktemp("json")
    rng = np.random.default_rng(0)
    np.savez(out / "data.npz", x=rng.normal(size=(4, 16, 12)).astype("float32"), y=np.arange(4))
    np.savez(out / "input.npz", x=np.zeros((1, 16, 12), "float32"))
    (out / "measured.csv").write_text(f"network,scheme,latency\n{MODEL},w8a8,1ms\n")
    for arguments in (
        ["plan", "-t", "edge_gpu", "-m", MODEL, "-o", f"{out}/plan"],
        ["plan", "-t", "mcu_m7", "-m", MODEL, "-o", f"{out}/other"],
        ["quantize", "--plan", f"{out}/plan/plan.json", "-o", f"{out}/quantized"],
        ["compile", "--quantized", f"{out}/quantized", "-o", f"{out}/artifact"],
    ):
        assert run(["--quiet", *arguments]) == 0
    return out


COMMANDS = {
    "plan": "plan -t edge_gpu -m {model} -o {out}/again",
    "report": "report {out}/plan",
    "plan --dry-run": "plan -t edge_gpu -m {model} -o {out}/never --dry-run",
    "plan diff": "plan diff {out}/plan/plan.json {out}/plan/plan.json",
    "report --compare": "report {out}/plan {out}/other --compare",
    "solve": "solve {out}/plan/tables.json --max-latency 1s",
    "quantize": "quantize --plan {out}/plan/plan.json -o {out}/q2",
    "evaluate": "evaluate {out}/quantized --data {out}/data.npz",
    "compile": "compile --quantized {out}/quantized -o {out}/a2",
    "run": "run {out}/artifact --input {out}/input.npz",
    "simulate": "simulate -t edge_gpu --plan {out}/plan/plan.json",
    "simulate --sweep": "simulate -t edge_gpu --plan {out}/plan/plan.json --sweep clock=1GHz:2GHz",
    "simulate --compat": "simulate -t edge_tpu --model {model} --compat scalesim",
    "target list": "target list",
    "target show": "target show edge_gpu",
    "target fit": "target fit edge_gpu --measured {out}/measured.csv -o {out}/fitted.yaml",
    "target validate": "target validate edge_gpu",
    "target schema": "target schema",
    "model list": "model list",
    "model show": "model show {model}",
    "doctor": "doctor",
}

MEASURING = {"bench", "target calibrate"}  # run for long; their own rooms test them


@pytest.mark.parametrize("name", COMMANDS)
def test_keys_are_the_documented_ones(name, made, capsys):
    assert run([*COMMANDS[name].format(model=MODEL, out=made).split(), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    if name in ("plan", "report"):
        assert set(found) == set(Report.model_fields)
    elif name == "target schema":
        assert found["$schema"].startswith("https://json-schema.org/")
    else:
        listed = isinstance(found, list)
        keys = set(found[0] if listed else found)
        swept = {"clock"} if name == "simulate --sweep" else set()
        assert keys - swept == KEYS[name][0]


def test_the_further_keys(made, capsys, tmp_path):
    assert run(["run", f"{made}/artifact", "--input", f"{made}/input.npz", "--repeat", "1", "--json"]) == 0
    assert set(json.loads(capsys.readouterr().out)) == set.union(*KEYS["run"]) - {"repeat"}
    (tmp_path / "bad.yaml").write_text("name: x\n")
    assert run(["target", "validate", str(tmp_path / "bad.yaml"), "--json"]) == 2
    assert set(json.loads(capsys.readouterr().out)[0]) == KEYS["target validate"][1]


def test_every_command_with_json_is_documented():
    verbs = {
        " ".join(words) for words, found in walk(command()) if any(p.name == "json" for p in found.params)
    }
    assert verbs <= {re.sub(r" --.*", "", name) for name in KEYS}
    assert set(COMMANDS) | MEASURING == set(KEYS)
