"""Markdown tables of the fidelity benchmarks: written whole, with the command that made them."""

import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from hwsim import files

REPORTS = Path(__file__).resolve().parents[2] / "reports" / "simulator"


def markdown(headings: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A GitHub table; numbers are printed as given."""
    lines = ["| " + " | ".join(headings) + " |", "|" + "---|" * len(headings)]
    lines += ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows]
    return "\n".join(lines)


def write(name: str, command: str, *parts: str) -> None:
    """Write ``reports/simulator/name`` and print it."""
    text = "\n\n".join([*parts, f"Made by `{command}`."]) + "\n"
    files.write_text(REPORTS / name, text)
    print(text)


def median_seconds(run: Callable[[], object], rounds: int = 15) -> float:
    """Median CPU time of ``run`` after one warm-up: one thread, so a busy machine does not count against it."""
    run()
    times: list[float] = []
    for _ in range(rounds):
        start = time.process_time()
        run()
        times.append(time.process_time() - start)
    return statistics.median(times)
