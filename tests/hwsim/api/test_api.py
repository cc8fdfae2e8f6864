"""The verbs as functions: one name for function and package, the flags of the command line, results to work with."""

import inspect
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch

import hwsim
from hwsim.cli.common import key
from hwsim.cli.main import command
from hwsim.cli.main import run as run_command
from tests.small_models import conv_net, transformer

ROOT = Path(__file__).resolve().parents[3]
NETWORK = f"{ROOT}/tests/small_models.py:conv_net"
VERBS = ("plan", "report", "quantize", "evaluate", "compile", "run", "bench", "simulate", "solve")
# Flags about printing, and what an object in memory replaces.
ONLY_COMMAND_LINE = {"json", "full", "dry_run", "help", "config", "quiet", "log_level", "debug"}
OTHER_MODES = {
    "simulate": {"sweep", "output_dir", "compat"}
}  # other questions: another device, another count
ONLY_PYTHON = {"example_inputs", "progress"}


def fragment(result: object) -> ElementTree.Element:
    """The notebook cell of a result; every fragment is well-formed."""
    return ElementTree.fromstring(f"<div>{result._repr_html_()}</div>")  # pyright: ignore


@pytest.mark.parametrize(
    "first",
    [
        "import hwsim",
        "from hwsim.compile.artifact import write_artifact",
        "from hwsim.report.render import to_html",
        "import hwsim.simulate.schedule",
        "from hwsim import compile, report, simulate",
    ],
)
def test_functions_and_packages_share_their_names_in_any_order_of_imports(first):
    code = f"""{first}
import hwsim, types
assert all(isinstance(getattr(hwsim, name), types.FunctionType) for name in hwsim.__all__ if name[0].islower())
from hwsim.compile.artifact import write_artifact
from hwsim.report import render, tables
from hwsim.simulate.simulation import Simulation
assert isinstance(hwsim.compile, types.FunctionType) and isinstance(render, types.ModuleType)
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_import_loads_nothing_outside_the_standard_library():
    code = "import sys; before = set(sys.modules); import hwsim; print(*(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, capture_output=True, text=True)
    roots = {name.partition(".")[0] for name in done.stdout.split()}
    assert roots - set(sys.stdlib_module_names) == {"hwsim"}


def test_every_exported_name_is_there_and_documented():
    for name in hwsim.__all__:
        assert inspect.getdoc(getattr(hwsim, name)), name


@pytest.mark.parametrize("verb", VERBS)
def test_functions_take_the_flags_of_the_command_line(verb):
    flags = {key(param).replace("-", "_") for param in command().commands[verb].params} - ONLY_COMMAND_LINE
    flags -= OTHER_MODES.get(verb, set())
    taken = set(inspect.signature(getattr(hwsim, verb)).parameters) - ONLY_PYTHON
    assert taken == flags


@pytest.fixture(scope="module")
def planned(tmp_path_factory):
    module, inputs = transformer()
    target = hwsim.load_target("x86_avx512_vnni").replace({"units.count": 2})
    return hwsim.plan(
        target=target, model=module, example_inputs=inputs, output_dir=tmp_path_factory.mktemp("plan"), max_error=0.5,
        max_latency=0.1, objective="latency", pin=["head=w8a8"],
    )  # fmt: skip


def test_a_plan_knows_its_figures_and_files(planned):
    assert planned.met
    assert 0 < planned.latency < 0.1
    assert 0 < planned.error < 0.5
    assert planned.energy > 0
    assert planned.weight_bytes > 0
    assert planned.schemes["head"] == "w8a8"
    assert all(file.is_file() for file in planned.files)
    assert str(planned).startswith(str(planned.directory / "SmallTransformer.pt2"))


def test_the_command_line_repeats_what_python_did(planned, tmp_path, capsys):
    config = planned.directory / "config.yaml"
    assert run_command(["plan", "--quiet", "--config", str(config), "-o", str(tmp_path)]) == 0
    capsys.readouterr()
    assert (tmp_path / "plan.json").read_bytes() == (planned.directory / "plan.json").read_bytes()


def test_widths_as_numbers_and_one_text_for_a_list(planned, tmp_path):
    module, inputs = transformer()
    found = hwsim.plan(
        target="x86_avx512_vnni", model=module, example_inputs=inputs, output_dir=tmp_path, bits=[4, 8],
        pin="head=w8a8", max_latency=0.1, max_error=0.5, objective="latency",
    )  # fmt: skip
    assert found.schemes["head"] == "w8a8"
    assert {scheme.partition("a")[0] for scheme in found.schemes.values()} <= {"w4", "w8", "fp"}
    tables = planned.directory / "tables.json"
    assert hwsim.solve(tables, pin="head=w8a8", max_error=0.5, objective="latency").plan.layers


def test_cell_of_a_plan_is_verdict_and_comparison(planned):
    cell = fragment(planned)
    assert cell.findtext("p/strong") == planned.report.headline
    assert any("--max-latency" in (item.text or "") for item in cell.iter("li"))
    names = [row[0].findtext("strong") or row[0].text for row in cell.iter("tr") if row[0].tag == "td"]
    assert names == [row.name for row in planned.report.comparison]
    assert [row[0].findtext("strong") for row in cell.iter("tr")][-1] == "this plan"


def test_from_a_plan_to_a_running_module(planned):
    quantized = hwsim.quantize(planned)
    assert quantized.directory == planned.directory / "quantized"
    assert (quantized.directory / "config.yaml").is_file()
    artifact = hwsim.compile(quantized=quantized)
    assert artifact.directory == planned.directory / "artifact"
    inputs = transformer()[1][0].numpy()
    done = hwsim.run(artifact, input=inputs, repeat=3)
    (output,) = done.outputs.values()
    assert output.shape == (1, 10)
    assert done.top[0] == (int(np.argmax(output)), pytest.approx(float(output.max())))
    assert done.median_seconds is not None and done.median_seconds > 0
    measured = hwsim.bench(artifact, target=planned.directory / "target.yaml", scheme="w8a8", rounds=1)
    assert measured.predicted > 0 and measured.measured > 0
    assert fragment(measured).findtext("p/strong") is not None
    np.savez(planned.directory / "data.npz", x=inputs, y=np.argmax(output, axis=-1))
    measured = hwsim.evaluate(quantized, data=planned.directory / "data.npz")
    assert measured.metrics["top1"] == 100
    assert [fragment(result).tag for result in (quantized, artifact, done, measured)] == ["div"] * 4


def test_replay_of_a_plan_and_of_a_module(planned, tmp_path):
    found = hwsim.simulate(planned, target=planned.directory / "target.yaml", trace=tmp_path / "trace.json")
    assert found.latency == pytest.approx(planned.latency)
    assert found.energy == pytest.approx(planned.energy)
    assert (tmp_path / "trace.json").read_bytes() == (planned.directory / "trace.json").read_bytes()
    module, inputs = conv_net()
    slow, fast = (
        hwsim.simulate(
            model=module, example_inputs=inputs, target=hwsim.load_target("mcu_m7").replace({"clock_hz": c})
        )
        for c in ("100 MHz", "400 MHz")
    )
    assert slow.latency > fast.latency
    assert len(list(fragment(slow).iter("tr"))) > 4


def test_reports_side_by_side_and_differences(planned, tmp_path):
    other = hwsim.plan(
        target="mobile_cpu", model=planned.directory / "SmallTransformer.pt2", output_dir=tmp_path / "other"
    )
    found = hwsim.report(planned, other, compare=True, output=tmp_path / "which.html")
    assert found.files == (tmp_path / "which.html",)
    assert found.comparison is not None
    assert {entry.target for entry in found.comparison.entries} == {planned.report.target, "mobile_cpu"}
    assert "other" in "".join(fragment(found).itertext())
    again = hwsim.report(other.directory)
    assert [file.name for file in again.files] == ["report.html", "report.md"]
    changed = hwsim.diff(planned, other)
    assert {change.name for change in changed.difference.totals} >= {"error", "latency"}
    assert "error" in "".join(fragment(changed).itertext())


def test_solve_from_the_tables_of_a_plan(planned, tmp_path):
    tables = planned.directory / "tables.json"
    found = hwsim.solve(tables, max_error=0.5, objective="latency", output=tmp_path / "again.json")
    assert found.plan.totals.latency <= planned.plan.totals.latency  # nothing is pinned here
    assert hwsim.diff(tmp_path / "again.json", planned).difference.same_tables
    frontier = hwsim.solve(tables, pareto=3)
    errors = [point.totals.error for point in frontier.plans]
    assert (
        errors == sorted(errors, reverse=True) and len(list(fragment(frontier).iter("tr"))) == len(errors) + 1
    )


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (
            lambda out: hwsim.plan(target="edge_gpuu", model="vit_b", output_dir=out),
            "did you mean 'edge_gpu'",
        ),
        (lambda out: hwsim.plan(target="edge_gpu", model="vit_c", output_dir=out), "vit_c"),
        (lambda out: hwsim.plan(target="edge_gpu", model=conv_net()[0], output_dir=out), "example_inputs"),
        (
            lambda out: hwsim.plan(target="edge_gpu", model="vit_b", example_inputs=(1,), output_dir=out),
            "by name",
        ),
        (
            lambda out: hwsim.plan(target="edge_gpu", model="vit_b", max_latency=-1.0, output_dir=out),
            "--max-latency",
        ),
        (lambda out: hwsim.plan(target="edge_gpu", model=NETWORK, pin="a", output_dir=out), "LAYERS=SCHEMES"),
        (lambda out: hwsim.quantize(out), "plan.json"),
        (lambda out: hwsim.quantize(scheme="w99a8", model=NETWORK, output_dir=out), "weight bits 99"),
        (lambda out: hwsim.quantize(scheme="w4a8", model=NETWORK, recipe="MSE", output_dir=out), "MSE"),
        (lambda out: hwsim.report(out), "report.json"),
        (lambda out: hwsim.run(out, input="x.png"), "manifest.json"),
    ],
)
def test_mistakes_are_user_errors_and_leave_nothing(call, says, tmp_path):
    with pytest.raises(hwsim.UserError, match=says):
        call(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_errors_of_the_planner_have_the_same_root():
    from hwsim.api.boundary import one_root
    from planner.errors import PlannerError

    @one_root
    def verb():
        raise PlannerError("a table that makes no sense")

    with pytest.raises(hwsim.UserError, match="a table that makes no sense"):
        verb()


def test_strict_and_infeasible_are_errors_of_their_own(tmp_path):
    module, inputs = conv_net()
    with pytest.raises(hwsim.InfeasibleError):
        hwsim.plan(
            target="edge_gpu", model=module, example_inputs=inputs, max_latency="1ns", output_dir=tmp_path
        )
    assert (tmp_path / "config.yaml").is_file()  # the limits can be mended there
    assert module.training is False


def test_a_plan_takes_the_module_it_was_made_for_once_more(planned, tmp_path):
    """Saved anew beside its results; weights that were trained on meanwhile are told."""
    module, inputs = transformer()
    same = hwsim.quantize(planned, model=module, example_inputs=inputs, output_dir=tmp_path / "same")
    assert not any("the plan was made for" in remark for remark in same.record.remarks)
    with torch.no_grad():
        module.head.bias.add_(1)
    other = hwsim.quantize(planned, model=module, example_inputs=inputs, output_dir=tmp_path / "other")
    assert any("the plan was made for weights of" in remark for remark in other.record.remarks)
