"""``hwsim plan`` fills every figure, and ``hwsim report`` renders, compares and describes what it wrote."""

import json
from itertools import pairwise
from pathlib import Path

import pytest

from hwsim.cli.main import run
from hwsim.report.document import Report, json_schema
from hwsim.report.render import to_html, to_markdown
from quant.scheme import Scheme

ROOT = Path(__file__).resolve().parents[3]
VIT = f"{ROOT}/tests/small_models.py:transformer"


@pytest.fixture(scope="module")
def planned(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("plans") / "cpu"
    made = run(
        ["--quiet", "plan", "-t", "mobile_cpu", "-m", VIT, "-o", str(out), "--pareto", "3", "--bits", "4,8"]
    )
    assert made == 0
    return out


@pytest.fixture(scope="module")
def other(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("plans") / "gpu"
    assert run(["--quiet", "plan", "-t", "edge_gpu", "-m", VIT, "-o", str(out)]) == 0
    return out


@pytest.fixture(scope="module")
def report(planned) -> Report:
    return Report.model_validate_json((planned / "report.json").read_bytes())


def test_no_figure_is_missing_without_a_reason(report):
    assert report.sensitivity is not None and report.roofline is not None and report.memory is not None
    assert report.timeline and report.anytime and report.pareto
    assert report.unavailable["measured latency"] and report.unavailable["top-1 accuracy"]
    assert all(row.unit for row in report.layers)


def test_frontier_that_was_not_asked_for_says_so(other):
    report = Report.model_validate_json((other / "report.json").read_bytes())
    assert report.pareto == []
    assert "--pareto" in report.unavailable["Pareto frontier"]
    assert "Frontier not obtained: not asked for; --pareto" in (other / "report.html").read_text()


def test_sensitivity_map_agrees_with_the_plan(report, planned):
    """Of the scheme itself: what a layer loses beyond it by being spread over an ensemble is not in the map."""
    assert report.sensitivity is not None
    plan = json.loads((planned / "plan.json").read_text())
    spread = {layer["name"] for layer in plan["layers"] if len({tuple(held) for held in layer["holds"]}) > 1}
    errors = dict(zip(report.sensitivity.layers, report.sensitivity.errors, strict=True))
    seen = 0
    for row in report.layers:
        if row.is_product and row.scheme != "fp":
            column = report.sensitivity.schemes.index(row.scheme)
            if row.name in spread:
                assert errors[row.name][column] < row.error
            else:
                assert errors[row.name][column] == pytest.approx(row.error, rel=1e-9)
            seen += 1
    assert seen > 0


def test_best_single_scheme_is_a_scheme_no_slower_and_no_worse_than_the_uniform_ones(report):
    rows = {row.name: row for row in report.comparison}
    best, own = rows["best single scheme"], rows["this plan"]
    assert own.seconds is not None
    rivals = [
        row
        for name, row in rows.items()
        if name in ("float", "uniform w8a8", "PIPE, uniform order 2")
        and row.seconds
        and row.seconds <= own.seconds
    ]
    if best.seconds is None:
        assert rivals == [] and "none of" in best.note
    else:
        assert best.seconds <= own.seconds
        assert str(Scheme.parse(best.scheme)) == best.scheme
        assert all(best.error <= row.error * (1 + 1e-9) for row in rivals)


def test_best_single_scheme_is_float_where_float_is_fastest(other):
    report = Report.model_validate_json((other / "report.json").read_bytes())
    rows = {row.name: row for row in report.comparison}
    assert all(layer.scheme == "fp" for layer in report.layers if layer.is_product)
    assert (rows["best single scheme"].scheme, rows["best single scheme"].error) == ("fp", 0.0)


def test_best_single_scheme_keeps_the_limits_of_the_plan(planned, tmp_path):
    limit = 0.7 * json.loads((planned / "plan.json").read_text())["totals"]["weight_bytes"]
    flags = ["--max-weight-memory", f"{int(limit)}B", "-o", str(tmp_path)]
    (tmp_path / "infeasible.json").write_text("{}")
    assert run(["--quiet", "plan", "-t", "mobile_cpu", "-m", VIT, "--bits", "4,8", *flags]) == 0
    assert not (tmp_path / "infeasible.json").exists()  # of a request that this plan has nothing to do with
    rows = {
        row.name: row
        for row in Report.model_validate_json((tmp_path / "report.json").read_bytes()).comparison
    }
    best = rows["best single scheme"]
    assert "keep" in best.note
    assert best.weight_bytes is None or best.weight_bytes <= limit < rows["uniform w8a8"].weight_bytes


def test_anytime_curve_costs_time_and_memory_and_lowers_the_error(report):
    points = report.anytime
    assert [point.order for point in points] == [1, 2, 3, 4]
    assert len({Scheme.parse(point.scheme).weight_bits for point in points}) == 1
    for before, after in pairwise(points):
        assert after.seconds > before.seconds
        assert after.weight_bytes > before.weight_bytes
        assert after.error < before.error
    pipe = next(row for row in report.comparison if row.name == "PIPE, uniform order 2")
    assert (points[1].scheme, points[1].seconds) == (pipe.scheme, pipe.seconds)


def test_memory_over_time_reaches_the_stated_peak(report):
    assert report.memory is not None
    peak = max(point.activation_bytes for point in report.memory.points)
    assert report.memory.weight_bytes + peak == pytest.approx(report.peak_memory_bytes)
    starts = [point.start_cycles for point in report.memory.points]
    assert starts == sorted(starts)
    assert starts[-1] < report.validation.simulated_cycles


def test_no_layer_is_above_the_roofline(report):
    assert report.roofline is not None
    peak = max(ceiling.macs_per_second for ceiling in report.roofline.ceilings)
    for row in report.layers:
        if row.is_product and row.simulated_cycles and row.memory_bytes:
            rate = row.macs * report.clock_hz / row.simulated_cycles
            assert rate <= peak * (1 + 1e-6)


def test_timeline_keeps_the_compute_time_of_the_trace(planned, report):
    trace = json.loads((planned / "trace.json").read_text())["traceEvents"]
    traced = sum(e["dur"] for e in trace if e.get("cat") == "compute") * 1e-6 * report.clock_hz
    shown = sum(event.duration for event in report.timeline if event.category == "compute")
    joins = len(trace) * report.validation.simulated_cycles / 1000  # each join may close one gap
    assert traced * (1 - 1e-9) <= shown <= traced + joins
    assert {event.resource for event in report.timeline} <= {f"core {unit}" for unit in range(4)}


def test_renders_again_the_same(planned, capsys):
    before = {name: (planned / name).read_bytes() for name in ("report.html", "report.md")}
    for name in before:
        (planned / name).unlink()
    assert run(["report", str(planned), "--full"]) == 0
    text = capsys.readouterr().out
    assert all(word in text for word in ("latency", "Stopping after each order", "Points of the frontier"))
    assert {name: (planned / name).read_bytes() for name in before} == before


@pytest.mark.parametrize("ending", ["html", "md", "json"])
def test_output_file_by_its_ending(planned, report, tmp_path, ending):
    file = tmp_path / f"r.{ending}"
    assert run(["report", str(planned / "report.json"), "-o", str(file)]) == 0
    text = file.read_text(encoding="utf-8")
    expected = {"html": to_html(report), "md": to_markdown(report)}
    if ending == "json":
        assert Report.model_validate_json(text) == report
    else:
        assert text == expected[ending]


def test_schema_is_printed(capsys):
    assert run(["report", "schema"]) == 0
    assert json.loads(capsys.readouterr().out) == json_schema()


def test_compare_in_every_rendering(planned, other, tmp_path, capsys):
    for ending in ("html", "md", "json"):
        file = tmp_path / f"c.{ending}"
        assert run(["report", str(planned), str(other), "--compare", "-o", str(file)]) == 0
        assert "cpu" in file.read_text(encoding="utf-8") and "gpu" in file.read_text(encoding="utf-8")
    assert "least latency: gpu" in capsys.readouterr().out
    assert run(["report", str(planned), str(other), "--compare", "--json"]) == 0
    entries = json.loads(capsys.readouterr().out)["entries"]
    assert [entry["name"] for entry in entries] == ["cpu", "gpu"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["report", "nowhere"], "no report.json here"),
        (["report", "{plan}", "-o", "x.pdf"], "one of .html, .md, .json"),
        (["report", "{plan}", "--compare"], "at least two"),
        (["report", "{plan}", "{plan}", "--compare"], "given twice"),
        (["report", "{plan}", "{plan}", "--json"], "add --compare"),
        (["report", "{plan}/plan.json"], "is no report of this version"),
        (["report", "{broken}"], "is no report of this version"),
    ],
)
def test_mistakes_are_one_line_and_exit_2(arguments, says, planned, tmp_path, capsys):
    broken = tmp_path / "report.json"
    broken.write_bytes(b"\x00 no json")
    words = [word.format(plan=planned, broken=broken) for word in arguments]
    assert run(words) == 2
    message = capsys.readouterr().err.strip()
    assert says in message and len(message.splitlines()) == 1
