"""The committed deployment reports: plan every case in a fresh process and write reports/ with its index.

    python benchmarks/deployment_reports.py [--only vit_b-edge_gpu ...]

Each case leaves the plan, the network's graph and the report as HTML, Markdown and JSON in reports/MODEL-TARGET.
Timings aside they depend on nothing but the code, the descriptors, the seed and the versions in constraints.txt;
tests/docs checks that they are up to date.
"""

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hwsim.units import format_quantity

REPORTS = Path(__file__).resolve().parents[1] / "reports"
FILES = ("plan.json", "graph.json", "report.html", "report.md", "report.json")
BEGIN, END = "<!-- written by benchmarks/deployment_reports.py -->", "<!-- end -->"


@dataclass(frozen=True)
class Case:
    """One plan and why it is shown."""

    model: str
    target: str
    options: str
    shows: str

    @property
    def name(self) -> str:
        """Its folder, as ``hwsim plan`` names it."""
        return f"{self.model}-{self.target}"

    @property
    def command(self) -> str:
        """What a user types."""
        return f"hwsim plan --target {self.target} --model {self.model} {self.options}".strip()


CASES = (
    Case("vit_b", "edge_gpu", "--max-latency 4ms --pareto 6", "a vision transformer inside a deadline"),
    Case("resnet18", "fpga_int4", "--max-latency 10ms --pareto 6", "4-bit arrays: orders instead of width"),
    Case(
        "deit_t",
        "x86_avx512_vnni",
        "--max-weight-memory 4MiB --max-latency 2.6ms",
        "a server CPU, less memory than w8a8 takes",
    ),
    Case(
        "mobilenet_v2",
        "mcu_m55_u55",
        "--max-weight-memory 2MiB --max-latency 25ms",
        "depthwise layers, weights in flash",
    ),
    Case("resnet50", "mobile_cpu", "--max-weight-memory 16MiB --max-latency 130ms", "two limits at once"),
    Case("deit_s", "fpga_zu9eg", "--max-latency 15ms", "bit-serial arrays: every width has its own speed"),
    Case("swin_t", "hexagon", "", "no limit: as accurate as w8a8, faster if possible"),
    Case("minilm_l6", "riscv_v", "--sequence 128", "a text encoder without a limit: as accurate as w8a8"),
)


def plan(case: Case, reports: Path = REPORTS) -> None:
    """Plan one case in a fresh process and keep its files."""
    with tempfile.TemporaryDirectory() as directory:
        # The command in the report is the one a user types, so the process runs where its out/ may lie.
        program = (
            f"import sys; sys.argv = {shlex.split(case.command)!r}; from hwsim.cli.main import main; main()"
        )
        environment = {
            **os.environ,
            "HF_HUB_OFFLINE": "1",
        }  # the committed figures are those of seeded weights
        subprocess.run(
            [sys.executable, "-c", program],
            cwd=directory,
            env=environment,
            check=True,
            stdout=subprocess.DEVNULL,
        )
        made = Path(directory) / "out" / case.name
        (reports / case.name).mkdir(exist_ok=True)
        for name in FILES:
            shutil.copyfile(made / name, reports / case.name / name)


def row(case: Case, report: dict[str, Any]) -> str:
    """One line of the index."""
    chosen = next(entry for entry in report["comparison"] if entry["chosen"])
    eight = next(entry for entry in report["comparison"] if entry["name"] == "uniform w8a8")
    faster = f"{eight['seconds'] / chosen['seconds']:.2f}×" if eight["seconds"] else "—"
    error = f"{chosen['error']:.3g}" + (" (illustrative)" if report["illustrative"] else "")
    cells = [
        f"[{case.model} on {case.target}]({case.name}/report.md)",
        case.shows,
        format_quantity(chosen["seconds"], "time"),
        faster,
        format_quantity(chosen["weight_bytes"], "bytes"),
        error,
        f"[page]({case.name}/report.html), [plan]({case.name}/plan.json)",
    ]
    return "| " + " | ".join(cells) + " |"


def index(reports: Path = REPORTS) -> str:
    """The generated part of reports/README.md."""
    lines = [
        "| plan | shows | latency | than w8a8 | weights | predicted error, nats | files |",
        "|---|---|---:|---:|---:|---:|---|",
    ]
    lines += [row(case, json.loads((reports / case.name / "report.json").read_text())) for case in CASES]
    return "\n".join(lines)


def write_index(reports: Path = REPORTS) -> None:
    """Put the index between its markers."""
    path = reports / "README.md"
    before, _, rest = path.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    path.write_text(f"{before}{BEGIN}\n\n{index(reports)}\n\n{END}{after}", encoding="utf-8")


def main() -> None:
    """Plan all cases, or those named, and write the index."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", default=[case.name for case in CASES])
    chosen = parser.parse_args().only
    for case in CASES:
        if case.name in chosen:
            print(case.command, flush=True)
            plan(case)
    write_index()


if __name__ == "__main__":
    main()
