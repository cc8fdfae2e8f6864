"""The planner on every shipped target, and beside PIPE's one order and sparsity for all layers.

    python benchmarks/planner/targets.py [--only targets|pipe] [--models deit_t,...] [--shared ../shared]
                                         [--output reports/planner]

``targets_MODEL.md``: for each model and target the fastest plan, then the most accurate one a quarter slower;
status, gap, time, and a second check by the independent verifier on the documents as they are written to disk.
``beside_pipe_MODEL.md``: the most accurate plan at the latency of a uniform expansion, both replayed in the simulator.
Tables hold the data-free error profile of seed 0. Time limit 60 s a request, one worker.
"""

import argparse
import os
import time
from collections import Counter
from pathlib import Path

import ortools
from networks import ROOT, Network, Priced, network, shipped_targets

from hwsim.simulate.cycle import LayerAssignment, simulate_plan, simulate_scheme
from hwsim.stages import comparison
from planner.errors import Infeasible
from planner.plan import Plan
from planner.request import Limits, Request
from planner.solve import solve
from planner.tables import Tables
from planner.verify import verify
from quant.scheme import Scheme

MODELS = ("deit_t", "mobilenet_v2", "resnet50", "bert_base", "vit_b")
PIPE_MODELS = ("vit_t", "mobilenet_v2")
PIPE_TARGETS = ("edge_gpu", "dc_a100", "fpga_zu9eg", "riscv_v", "x86_avx512_vnni")
PIPE_SCHEMES = tuple(Scheme.parse(text) for text in ("w4a8.o2", "w4a8.o2.g50", "w4a8.o3.g50"))
TIME_LIMIT = 60.0
ROOM = 1.25


def checked(tables: Tables, plan: Plan) -> bool:
    """The verifier on the documents as another program would read them."""
    read = Plan.model_validate_json(plan.model_dump_json())
    verify(Tables.model_validate_json(tables.model_dump_json()), read)
    return True


def on_target(priced: Priced) -> str:
    """One row: the fastest plan and the most accurate one a quarter slower."""
    name, tables = f"| {priced.model.spec} | {priced.target.name} |", priced.tables
    started = time.perf_counter()
    try:
        fastest = solve(tables, Request(objective=("latency", "error"), time_limit=TIME_LIMIT))
    except Infeasible as error:
        return f"{name} | infeasible: {error.report.conflict[0].text} | | | | | | |"
    first = time.perf_counter() - started
    limits = Limits(latency=ROOM * fastest.totals.latency)
    started = time.perf_counter()
    plan = solve(tables, Request(objective=("error", "latency"), limits=limits, time_limit=TIME_LIMIT))
    second = time.perf_counter() - started
    good = checked(tables, fastest) and checked(tables, plan)
    options = f"{plan.options_before} / {plan.options_after} / {plan.options_solver}"
    gaps = ", ".join(f"{proof.gap:.2g}" for proof in plan.proof)
    used = "" if plan.ensemble is None else f", ensemble of {plan.ensemble.predictors}"
    return (
        f"{name} {len(tables.layers)} | {options} | {fastest.status} {first:.1f} | {plan.status}{used} | {gaps} "
        f"| {second:.1f} | {plan.totals.error:.3g} | {'yes' if good else 'no'} |"
    )


def beside_pipe(priced: Priced, weights: str) -> list[str]:
    """One row for each uniform expansion: its error and that of the plan at its replayed latency."""
    graph = priced.model.graph
    rows: list[str] = []
    for scheme in PIPE_SCHEMES:
        name = f"| {priced.model.spec} ({weights}) | {priced.target.name} | {scheme} |"
        uniform = simulate_scheme(graph, scheme, priced.target)
        if any(layer.scheme == "fp" for layer in uniform.layers):
            rows.append(f"{name} | | | | not runnable in full | | |")
            continue
        error = comparison.uniform_error(graph.products(), comparison.Form("PIPE", scheme), priced.profile)
        plan, seconds = within(priced, uniform.seconds)
        counts = Counter(layer.scheme for layer in plan.layers).most_common()
        mixture = ", ".join(f"{count} × {text}" for text, count in counts[:4]) + (", …" if counts[4:] else "")
        rows.append(
            f"{name} {uniform.seconds * 1e3:.4g} | {error:.4g} | {seconds * 1e3:.4g} | {plan.totals.error:.4g} "
            f"| {plan.totals.error / error:.2f} | {plan.status}: {mixture} |"
        )
    return rows


def within(priced: Priced, seconds: float) -> tuple[Plan, float]:
    """The most accurate plan whose replay takes at most ``seconds``, and the time of its replay."""
    allowed = seconds
    while True:
        request = Request(limits=Limits(latency=allowed), time_limit=TIME_LIMIT, ensembles=False)
        plan = solve(priced.tables, request)
        assignments = {
            layer.name: LayerAssignment(Scheme.parse(layer.scheme), layer.engine, layer.way)
            for layer in plan.layers
        }
        replay = simulate_plan(priced.model.graph, assignments, 1, priced.target)
        if replay.seconds <= seconds:
            return plan, replay.seconds
        allowed = min(allowed, plan.totals.latency) * seconds / replay.seconds


def write(path: Path, title: str, head: str, rows: list[str], tail: list[str]) -> None:
    """A table with what made it."""
    load = ", ".join(f"{value:.0f}" for value in os.getloadavg())
    text = [
        f"# {title}",
        "",
        f"Made by `python benchmarks/planner/targets.py` with ortools {ortools.__version__} on a two-core x86-64 with "
        f"AVX-512 VNNI; load average {load} when it ended: wall times are upper estimates.",
        "",
        head,
        "|" + "---|" * (head.count("|") - 1),
        *rows,
        "",
        *tail,
    ]
    path.write_text("\n".join(text) + "\n", encoding="utf-8")
    print("\n".join(text), flush=True)


def targets_table(options: argparse.Namespace) -> None:
    """Every model on every target; a file for each model."""
    for name in [model for model in options.models if model in MODELS]:
        rows: list[str] = []
        made: Network = network(name, options.targets, options.shared)
        for target in options.targets:
            rows.append(on_target(made.on(target)))
            print(rows[-1], flush=True)
        solved = [row for row in rows if "infeasible" not in row]
        proven = sum(row.count("| optimal") == 2 for row in solved)
        tail = [
            f"{len(rows)} pairs, {len(solved)} feasible, {proven} of them proven optimal in both requests."
        ]
        head = (
            "| model | target | products | options: all / undominated / in the solver | fastest (s) | accurate | gap "
            "| s | error (nats) | verified |"
        )
        title = (
            f"Every shipped target: fastest plan, and the most accurate one within {ROOM} times its latency"
        )
        write(options.output / f"targets_{name}.md", title, head, rows, tail)


def pipe_table(options: argparse.Namespace) -> None:
    """The plan at the latency of PIPE's uniform order and sparsity; a file for each model."""
    chosen = [target for target in options.targets if target.name in PIPE_TARGETS]
    for name in [model for model in options.models if model in PIPE_MODELS]:
        made = network(name, chosen, options.shared, PIPE_SCHEMES)
        rows: list[str] = []
        for target in chosen:
            rows += beside_pipe(made.on(target), made.weights)
            print(rows[-1], flush=True)
        tail: list[str] = []
        for scheme in PIPE_SCHEMES:
            ran = [row for row in rows if f"| {scheme} |" in row and "not runnable" not in row]
            half = sum(float(row.split("|")[8]) <= 0.5 for row in ran)
            tail.append(f"- {scheme}: at most half its error on {half} of {len(ran)} targets")
        head = (
            "| model | target | uniform | its latency (ms) | its error | plan's latency (ms) | plan's error | ratio "
            "| the plan |"
        )
        title = "At the simulated latency of PIPE's uniform order and sparsity: predicted error in nats"
        write(options.output / f"beside_pipe_{name}.md", title, head, rows, tail)


def main() -> None:
    """Both tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--models", type=lambda text: text.split(","), default=list(dict.fromkeys([*MODELS, *PIPE_MODELS]))
    )
    parser.add_argument("--only", choices=["targets", "pipe"])
    parser.add_argument("--shared", type=Path, default=ROOT.parent / "shared")
    parser.add_argument("--output", type=Path, default=ROOT / "reports" / "planner")
    options = parser.parse_args()
    options.targets = shipped_targets()
    options.output.mkdir(parents=True, exist_ok=True)
    if options.only != "targets":
        pipe_table(options)
    if options.only != "pipe":
        targets_table(options)


if __name__ == "__main__":
    main()
