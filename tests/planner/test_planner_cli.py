"""``hwsim solve`` and ``hwsim plan diff`` as a user meets them."""

import json

import pytest
import typer
from typer.testing import CliRunner

from hwsim.cli.solve import diff, solve
from hwsim.errors import InfeasibleError, UserError
from planner.diff import PlanDiff
from planner.plan import Plan
from planner.verify import verify
from tests.planner.random_tables import random_tables

app = typer.Typer()
app.command("solve")(solve)
app.command("diff")(diff)


def tables():
    return random_tables(2, layers=4, ensembles=False).model_copy(
        update={"agreements": (), "memories": (), "model": "toy", "target": "toy_npu", "clock_hz": 1e3}
    )


@pytest.fixture
def path(tmp_path):
    file = tmp_path / "tables.json"
    file.write_text(tables().model_dump_json())
    return file


def run(*arguments, code=0):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return result.output


def test_json_is_a_plan_that_verifies(path, tmp_path):
    text = run("solve", path, "--max-latency", "1s", "--json", "-o", tmp_path / "plan.json")
    plan = Plan.model_validate_json(text)
    verify(tables(), plan)
    assert plan.limits[0].binding is not None
    assert Plan.model_validate_json((tmp_path / "plan.json").read_text()) == plan
    again = run("solve", path, "--max-latency", "1s", "--json", "--warm-start", tmp_path / "plan.json")
    assert Plan.model_validate_json(again).totals == plan.totals


def test_summary_names_layers_and_proof(path):
    text = run("solve", path, "--max-latency", "1s", "--alternatives", "1")
    assert "proven optimal" in text
    assert "layer0" in text
    assert "limit latency" in text


def test_pareto_prints_points(path):
    points = json.loads(run("solve", path, "--pareto", "5", "--json"))
    latencies = [point["totals"]["cycles"] for point in points]
    assert latencies == sorted(set(latencies))
    assert all(point["status"] == "optimal" for point in points)
    assert "latency" in run("solve", path, "--pareto", "2")
    assert "of 1000 points: the frontier has no more" in run("solve", path, "--pareto", "1000")


def test_infeasible_names_limit_and_way_out(path):
    with pytest.raises(InfeasibleError, match="latency"):
        run("solve", path, "--max-latency", "1us")
    result = CliRunner().invoke(app, ["solve", str(path), "--max-latency", "1us", "--json"])
    report = json.loads(result.output)
    assert report["minimal"]
    assert report["relaxations"][0]["name"] == "latency"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "nothing to plan for"),
        (["--objective", "speed"], "not one of"),
        (["--objective", "error,error"], "two different ones"),
        (["--max-latency", "fast"], "--max-latency"),
        (["--max-error", "-1"], r"limits\.error"),
        (["--objective", "latency", "--seed", str(2**31)], "seed"),
        (["--objective", "latency", "--warm-start", "none.json"], "no such file"),
    ],
)
def test_mistakes_are_one_line(path, arguments, message):
    with pytest.raises(UserError, match=message):
        run("solve", path, *arguments)


def test_broken_tables_say_where(tmp_path):
    file = tmp_path / "tables.json"
    file.write_text('{"layers": [{"name": "a", "kind": "linear", "options": []}]}')
    with pytest.raises(UserError, match=r"layers\.0\.options"):
        run("solve", file, "--objective", "latency")
    file.write_text("not json")
    with pytest.raises(UserError, match="Invalid JSON"):
        run("solve", file, "--objective", "latency")


def test_diff_lists_changed_layers(path, tmp_path):
    run("solve", path, "--objective", "latency", "-o", tmp_path / "a.json")
    run("solve", path, "--objective", "error", "-o", tmp_path / "b.json")
    found = PlanDiff.model_validate_json(run("diff", tmp_path / "a.json", tmp_path / "b.json", "--json"))
    one, other = (Plan.model_validate_json((tmp_path / name).read_text()) for name in ("a.json", "b.json"))
    changed = {a.name for a, b in zip(one.layers, other.layers, strict=True) if a.scheme != b.scheme}
    assert changed <= {layer.name for layer in found.layers}
    assert found.same_tables
    assert "layers differ" in run("diff", tmp_path / "a.json", tmp_path / "b.json")
    same = PlanDiff.model_validate_json(run("diff", tmp_path / "a.json", tmp_path / "a.json", "--json"))
    assert same.layers == ()
    assert same.unchanged == 4
