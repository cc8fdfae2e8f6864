"""``hwsim target``: list, show, validate, schema."""

import json
import subprocess
import sys

from typer.testing import CliRunner

from hwsim.cli.target import app
from hwsim.target.load import list_targets, load_target

RUNNER = CliRunner()


def run(*arguments: str):
    return RUNNER.invoke(app, list(arguments))


def test_list_names_every_target():
    result = run("list")
    assert result.exit_code == 0
    assert all(name in result.stdout for name in list_targets())


def test_list_json():
    rows = json.loads(run("list", "--json").stdout)
    assert [row["name"] for row in rows] == list_targets()
    gpu = next(row for row in rows if row["name"] == "edge_gpu")
    assert gpu["peak_int8_tops"] == load_target("edge_gpu").peak_tops()
    assert gpu["memory_bytes_per_second"] == 68e9


def test_show_every_target_as_table_and_json():
    for name in list_targets():
        assert name in run("show", name).stdout
        shown = json.loads(run("show", name, "--json").stdout)
        target = load_target(name)
        assert shown["sha256"] == target.sha256
        assert shown["document"] == target.document()
        assert shown["provenance"]["clock_hz"] == "given"
        assert [m["name"] for m in shown["resolved"]["memories"]] == [level.name for level in target.levels]


def test_show_marks_what_was_not_given(tmp_path):
    path = tmp_path / "six.yaml"
    path.write_text(
        "schema_version: 1\nname: six\nclock_hz: 1 GHz\nunits: 2\nengines: [{macs_per_cycle: 64}]\n"
        "memories: [{name: sram, bytes: 1 MiB}, {name: dram, bandwidth: 4 GB/s}]\npower_w: 1\n"
    )
    shown = run("show", str(path)).stdout
    assert "(default)" in shown and "(derived)" in shown


def test_validate(tmp_path):
    good = run("validate", "edge_gpu", "mcu_m7.yaml")
    assert good.exit_code == 0 and good.stdout.count("valid") == 2
    bad = tmp_path / "bad.yaml"
    bad.write_text("schema_version: 1\nname: x\nclock_hz: 0\n")
    result = run("validate", "edge_gpu", str(bad))
    assert result.exit_code == 2
    assert f"{bad}:3:1 clock_hz: must be greater than 0" in result.stderr
    assert f"{bad}:1:1 engines: required field is missing" in result.stderr
    assert "edge_gpu: valid" in result.stdout
    report = json.loads(run("validate", "edge_gpu", str(bad), "--json").stdout)
    assert [one["valid"] for one in report] == [True, False]
    assert len(report[1]["errors"]) == 4


def test_schema_is_json_schema():
    for arguments in (["schema"], ["schema", "--json"]):
        schema = json.loads(run(*arguments).stdout)
        assert schema["properties"]["class"]["enum"]
        assert schema["$schema"].startswith("https://json-schema.org/")


def test_importing_the_verb_is_light():
    code = (
        "import sys, hwsim.cli.target;"
        "print([m for m in ('pydantic', 'ruamel', 'torch', 'numpy') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[]"


def test_loading_a_target_is_light():
    code = (
        "import sys; from hwsim.target.load import load_target; load_target('edge_gpu');"
        "print([m for m in ('numpy', 'torch', 'tvm', 'networkx', 'rich', 'scipy') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[]"
