"""Cold ``hwsim plan``: wall time, processor time and peak memory of a fresh process, and its split by stage.

Usage: python benchmarks/plan_cold.py [--rounds 3]; writes reports/plan_cold.md
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

CASES = (("vit_b", "edge_gpu"), ("resnet18", "edge_gpu"))
COMMAND = "from hwsim.cli.main import main; main()"


def measure(model: str, target: str, rounds: int) -> str:
    """One row of the table: medians over the rounds."""
    walls: list[float] = []
    processor: list[float] = []
    peaks: list[float] = []
    stages: dict[str, float] = {}
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as out:
            command = [sys.executable, "-c", COMMAND, "--quiet", "plan", "-t", target, "-m", model, "-o", out]
            start = time.perf_counter()
            child = subprocess.Popen(command, stdout=subprocess.DEVNULL)
            _, status, usage = os.wait4(child.pid, 0)
            assert status == 0, f"{model} on {target}: status {status}"
            walls.append(time.perf_counter() - start)
            processor.append(usage.ru_utime + usage.ru_stime)
            peaks.append(usage.ru_maxrss / 1024)
            report = json.loads((Path(out) / "report.json").read_text())
            stages = {stage["name"]: stage["seconds"] for stage in report["stages"]}
    split = ", ".join(f"{name} {seconds:.1f}" for name, seconds in stages.items())
    figures = f"{statistics.median(walls):.1f} | {statistics.median(processor):.1f} | {statistics.median(peaks):.0f}"
    return f"| {model} | {target} | {figures} | {split} |"


def main() -> None:
    """Measure all cases and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    rows = [measure(model, target, rounds) for model, target in CASES]
    text = "\n".join(
        [
            "# Cold `hwsim plan`",
            "",
            f"`python benchmarks/plan_cold.py --rounds {rounds}`: fresh processes, compiled kernels cached, random "
            f"weights, seed 0; medians on {os.cpu_count()} cores, {platform.machine()}, Python "
            f"{platform.python_version()}. The split is of the last round; the rest is imports and writing.",
            "",
            "| model | target | wall s | processor s | peak MiB | split in seconds |",
            "|---|---|---|---|---|---|",
            *rows,
        ]
    )
    path = Path(__file__).resolve().parents[1] / "reports" / "plan_cold.md"
    path.write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
