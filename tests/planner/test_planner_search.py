"""Time limits, outside stops, Ctrl-C, progress, warm starts, and the independent verifier."""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import textwrap
import threading
import time

import pytest

from planner.errors import Infeasible, Unsolved
from planner.plan import Plan
from planner.request import Limits, Request
from planner.solve import solve, solve_with_stats
from planner.tables import LayerOption, LayerTable, Tables
from planner.verify import Mismatch, verify
from tests.planner.random_tables import random_request, random_tables


def hard_tables(layers=60, options=8, seed=0):
    """Strongly correlated costs: the gap closes slowly, plans are found at once."""
    rng = random.Random(seed)
    rows = []
    for index in range(layers):
        made = []
        for i in range(options):
            cycles, weights, bops = (rng.randint(10**6, 10**7) for _ in range(3))
            error = float(3 * 10**7 - cycles - weights - bops + rng.randint(0, 10**4))
            made.append(
                LayerOption(
                    scheme=f"s{i}", weight_bits=8, act_bits=8, error=error, cycles=cycles,
                    weight_bytes=weights, bops=bops, energy_pj=float(rng.randint(1, 10**6)),
                )
            )  # fmt: skip
        rows.append(LayerTable(name=f"l{index}", kind="linear", options=tuple(made)))
    return Tables(layers=tuple(rows), clock_hz=1.0)


HARD = Limits(latency=60 * 5e6, weight_memory=60 * 5e6, bops=60 * 5e6, energy=60 * 4e5)


def test_time_limit_gives_the_best_so_far_with_a_stated_gap():
    started = time.monotonic()
    plan = solve(hard_tables(), Request(limits=HARD, time_limit=4))
    assert time.monotonic() - started < 30
    assert plan.status == "feasible"
    assert plan.stopped == "time_limit"
    assert 0 < plan.proof[0].gap < 0.1
    assert plan.proof[0].bound < plan.proof[0].value


def test_outside_stop_ends_the_search():
    stop = threading.Event()
    steps = []
    threading.Timer(3.0, stop.set).start()
    plan = solve(hard_tables(), Request(limits=HARD, time_limit=120), stop=stop, progress=steps.append)
    assert plan.stopped == "interrupted"
    assert plan.status == "feasible"
    gaps = [step.gap for step in steps if step.gap is not None]
    assert gaps
    assert all(-1e-9 <= gap <= 1 for gap in gaps)


def test_no_time_for_anything_says_so():
    with pytest.raises(Unsolved, match="raise the time limit"):
        solve(hard_tables(), Request(objective=("activation_memory",), limits=HARD, time_limit=1e-6))


def test_no_time_to_explain_says_so_too():
    with pytest.raises(Infeasible, match="the time was up") as caught:
        solve(hard_tables(300), Request(limits=HARD, time_limit=1e-6))
    assert not caught.value.report.minimal


def test_ctrl_c_keeps_the_best_plan(tmp_path):
    (tmp_path / "tables.json").write_text(hard_tables().model_dump_json())
    code = f"""
        import sys
        from pathlib import Path
        from planner.request import Limits, Request
        from planner.solve import solve
        from planner.tables import Tables
        tables = Tables.model_validate_json(Path({str(tmp_path / "tables.json")!r}).read_text())
        limits = Limits.model_validate_json({HARD.model_dump_json()!r})
        def told(step):
            if step.value is not None:
                print("running", flush=True)
        plan = solve(tables, Request(limits=limits, time_limit=300), progress=told)
        Path({str(tmp_path / "plan.json")!r}).write_text(plan.model_dump_json())
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline().strip() == "running"
    os.kill(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    plan = Plan.model_validate_json((tmp_path / "plan.json").read_text())
    assert plan.stopped == "interrupted"
    verify(hard_tables(), plan)


def solvable(start):
    for seed in range(start, start + 100):
        tables = random_tables(seed)
        request = random_request(seed, tables)
        try:
            return tables, request, solve(tables, request)
        except Infeasible:
            continue
    raise AssertionError("no feasible instance")


@pytest.mark.parametrize("start", range(0, 1000, 100))
def test_warm_start_from_its_own_answer(start):
    tables, request, plan = solvable(start)
    again = solve(tables, request, warm_start=plan)
    assert [p.value for p in again.proof] == [p.value for p in plan.proof]
    other = random_tables(start + 5_000)
    with contextlib.suppress(Infeasible):
        assert solve(other, Request(), warm_start=plan).proof == solve(other, Request()).proof


def test_warm_start_is_kept_when_there_is_no_time():
    tables = hard_tables()
    first = solve(tables, Request(limits=HARD, time_limit=3))
    again = solve(tables, Request(limits=HARD, time_limit=0.5), warm_start=first)
    assert again.totals.error <= first.totals.error


def test_stats_stand_beside_the_plan():
    tables, request, _ = solvable(300)
    solution = solve_with_stats(tables, request)
    assert solution.stats.seconds > 0
    assert "seconds" not in solution.plan.model_dump_json()


def test_seconds_never_enter_the_document():
    names = set(json.loads(json.dumps(Plan.model_json_schema()))["properties"])
    assert not {name for name in names if "second" in name or "time" in name}


def tampered(plan):
    layer = plan.layers[0]
    totals = plan.totals
    yield plan.model_copy(update={"totals": totals.model_copy(update={"error": totals.error * 0.5 + 1})})
    yield plan.model_copy(update={"totals": totals.model_copy(update={"cycles": totals.cycles + 1})})
    yield plan.model_copy(update={"layers": plan.layers[1:]})
    wrong = layer.model_copy(update={"scheme": "w1a1"})
    yield plan.model_copy(update={"layers": (wrong, *plan.layers[1:])})
    yield plan.model_copy(update={"request": Request(limits=Limits(latency=1e-30))})
    yield plan.model_copy(update={"request": Request(pins=(f"{layer.name}=nothing",))})
    yield plan.model_copy(update={"request": Request(forbids=("*=*",))})
    proof = plan.proof[0].model_copy(update={"gap": 0.5})
    yield plan.model_copy(update={"proof": (proof,)})


@pytest.mark.parametrize("start", range(0, 400, 100))
def test_verifier_sees_every_change(start):
    tables, _, plan = solvable(start)
    verify(tables, plan)
    for wrong in tampered(plan):
        with pytest.raises(Mismatch):
            verify(tables, wrong)


def test_verifier_shares_no_code_with_the_model():
    source = open(sys.modules["planner.verify"].__file__).read()  # noqa: SIM115
    used = {line.split()[1] for line in source.splitlines() if line.startswith("from planner")}
    assert used == {"planner.errors", "planner.plan", "planner.tables"}
