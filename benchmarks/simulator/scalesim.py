"""Fidelity to SCALE-Sim 3.0.0, live and from the reference tables, and speed against it in the same run.

Needs nothing but hwsim for the tables; with ``--live`` it also installs SCALE-Sim (``scalesim==3.0.0``,
``numpy==1.26.4``) in an environment of its own and runs it on a few layers.

    python benchmarks/simulator/scalesim.py [--live] [--environment DIR]
"""

import argparse
import csv
import os
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402

from benchmarks.simulator.tables import markdown, median_seconds, write  # noqa: E402
from hwsim.simulate.pricing import pack_terms, price_points  # noqa: E402
from hwsim.simulate.scalesim_files import read_config, read_topology  # noqa: E402
from hwsim.simulate.systolic import SystolicCounts, systolic_counts  # noqa: E402
from tests.hwsim.simulate.fake_graph import network, systolic  # noqa: E402

SHARED = Path(os.environ.get("HWSIM_SHARED", ROOT.parent / "shared"))
COLUMNS = {
    "total_cycles": "cycles",
    "overall_util_pct": "overall_utilisation",
    "mapping_eff_pct": "mapping_efficiency",
    "compute_util_pct": "compute_utilisation",
    "sram_ifmap_reads": "sram_input_reads",
    "sram_filter_reads": "sram_filter_reads",
    "sram_ofmap_writes": "sram_output_writes",
    "dram_ifmap_reads": "dram_input_reads",
    "dram_filter_reads": "dram_filter_reads",
    "dram_ofmap_writes": "dram_output_writes",
}
LIVE_LAYERS = [
    ("conv 14x14x32, 3x3, 32", "c1, 16, 16, 3, 3, 32, 32, 1,"),
    ("conv 28x28x16, 3x3 stride 2, 48", "c2, 29, 29, 3, 3, 16, 48, 2,"),
    ("conv 27x27x8, 5x5 stride 3, 20 (ragged)", "c3, 27, 27, 5, 5, 8, 20, 3,"),
    ("1x1 stride 2", "c4, 27, 27, 1, 1, 24, 40, 2,"),
    ("197x64x64 product", "c5, 197, 64, 1, 64, 1, 64, 1,"),
]
LIVE_ARRAYS = ((8, 8), (16, 8), (7, 12))
RUNNER = """
import json, sys, time
from scalesim.scale_sim import scalesim
start = time.process_time()
s = scalesim(save_disk_space=True, verbose=False, config=sys.argv[1], topology=sys.argv[2], layout=sys.argv[3])
s.run_scale(top_path=sys.argv[4])
print("CPU", time.process_time() - start)
"""


def mismatches(row: dict[str, str], counts: SystolicCounts) -> list[str]:
    """Columns of a reference row that differ."""
    wrong: list[str] = []
    for column, name in COLUMNS.items():
        if row[column] and abs(float(row[column]) - getattr(counts, name)) > 1e-5 * max(
            1.0, abs(float(row[column]))
        ) * ("pct" in column):
            wrong.append(column)
    return wrong


def reference_table() -> tuple[str, int]:
    """One line a reference file: rows, checks, mismatches, and what the corrected model says."""
    rows: list[list[object]] = []
    total = 0
    for path in sorted((SHARED / "ref").glob("scalesim_*.csv")):
        _, model, array, dataflow = path.stem.split("_")
        config = read_config(SHARED / "ref" / "configs" / f"cfg_{array}_{dataflow}.cfg")
        topology = read_topology(SHARED / "ref" / "topologies" / f"{model}_scalesim.csv")
        wrong, published, corrected, cpu = 0, 0, 0, 0.0
        table = list(csv.DictReader(path.open()))
        for row, entry in zip(table, topology, strict=True):
            arguments = (entry.layer, config.rows, config.columns, config.dataflow)
            counts = systolic_counts(*arguments, compat="scalesim")
            wrong += len(mismatches(row, counts))
            published += counts.cycles * entry.instances
            corrected += systolic_counts(*arguments).cycles * entry.instances
            cpu += float(row["cpu_s"] or 0)
        total += wrong
        gap = 100 * (corrected / published - 1)
        rows.append(
            [
                model,
                array,
                dataflow,
                len(table),
                len(table) * len(COLUMNS),
                wrong,
                f"{published:,}",
                f"{corrected:,}",
                f"{gap:+.1f} %",
            ]
        )
    headings = [
        "model",
        "array",
        "dataflow",
        "layers",
        "checks",
        "mismatches",
        "cycles as published",
        "corrected",
        "gap",
    ]
    return markdown(headings, rows), total


def speed_table() -> str:
    """All products of a network priced on a 128 x 128 array."""
    machine = systolic(128, 128)
    rows: list[list[object]] = []
    for model in ("vit_b16", "resnet50"):
        dims, points, terms = table_of(network(model), machine)
        seconds = median_seconds(lambda d=dims, p=points, t=terms: price_points(machine, d, p, t), 101)
        rows.append([model, len(points), f"{1e3 * seconds:.3f}", f"{len(points) / seconds:,.0f}"])
    return markdown(["network, 128 x 128 ws", "products", "ms, median of 101", "points a second"], rows)


def table_of(layers, machine):
    """Rows of the kernel's tables for w8a8, one unit."""
    from hwsim.simulate.placement import Placement
    from hwsim.simulate.pricing import dims_row, option_terms, point_row, scheme_terms
    from quant.scheme import Scheme

    scheme, home = Scheme.parse("w8a8"), Placement(1, 0)
    dims = np.array([dims_row(layer) for layer in layers], np.int64)
    terms = [
        option_terms(
            machine, machine.engines[0], scheme, scheme_terms(scheme, layer.n, layer.groups, layer.k)
        )[0]
        for layer in layers
    ]
    points = [(i, 0, 0, *point_row(machine, layer, scheme, 8, 1, home)) for i, layer in enumerate(layers)]
    return dims, np.array(points, np.float64), pack_terms(terms)


def live_table(environment: Path) -> tuple[str, int]:
    """Run SCALE-Sim itself on a few layers, compare, and time both on the same layers."""
    python = environment / "bin" / "python"
    if not python.exists():
        venv.create(environment, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "-q", "scalesim==3.0.0", "numpy==1.26.4"], check=True)
    rows: list[list[object]] = []
    total = 0
    for (height, width), dataflow in ((array, d) for array in LIVE_ARRAYS for d in ("os", "ws", "is")):
        found, cpu = run_scalesim(python, height, width, dataflow)
        with tempfile.TemporaryDirectory() as folder:
            topology = read_topology(write_topology(Path(folder)))
        seconds = median_seconds(
            lambda t=topology, h=height, w=width, d=dataflow: [
                systolic_counts(e.layer, h, w, d, "scalesim") for e in t
            ],
            201,
        )
        wrong = 0
        for row, entry in zip(found, topology, strict=True):
            wrong += len(mismatches(row, systolic_counts(entry.layer, height, width, dataflow, "scalesim")))
        total += wrong
        rows.append(
            [
                f"{height}x{width}",
                dataflow,
                len(found),
                len(found) * len(COLUMNS),
                wrong,
                f"{cpu:.2f}",
                f"{1e6 * seconds:.0f}",
                f"{cpu / seconds:,.0f}x",
            ]
        )
    headings = [
        "array",
        "dataflow",
        "layers",
        "checks",
        "mismatches",
        "SCALE-Sim, CPU s",
        "hwsim, µs",
        "faster",
    ]
    return markdown(headings, rows), total


def write_topology(folder: Path) -> Path:
    """The live layers as a SCALE-Sim topology file."""
    path = folder / "net.csv"
    header = (
        "Layer name, IFMAP Height, IFMAP Width, Filter Height, Filter Width, Channels, Num Filter, Strides,"
    )
    path.write_text("\n".join([header, *(row for _, row in LIVE_LAYERS)]) + "\n")
    return path


def run_scalesim(python: Path, height: int, width: int, dataflow: str) -> tuple[list[dict[str, str]], float]:
    """Rows with our column names, and its CPU seconds."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        base = (SHARED / "ref" / "configs" / "cfg_8x8_os.cfg").read_text()
        base = base.replace("run_name = ref_8x8_os", "run_name = live").replace(
            "ArrayHeight:    8", f"ArrayHeight: {height}"
        )
        base = base.replace("ArrayWidth:     8", f"ArrayWidth: {width}").replace(
            "Dataflow : os", f"Dataflow : {dataflow}"
        )
        (folder / "c.cfg").write_text(base)
        topology = write_topology(folder)
        (folder / "run.py").write_text(RUNNER)
        layout = folder / "layout.csv"
        layout.write_text(
            "Layer name,\n" + "\n".join(row.split(",")[0] + "," + "1," * 18 for _, row in LIVE_LAYERS) + "\n"
        )
        out = subprocess.run(
            [python, "run.py", "c.cfg", str(topology), str(layout), str(folder)],
            cwd=folder,
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        cpu = float(next(line.split()[1] for line in out.splitlines() if line.startswith("CPU")))
        compute = read_report(folder / "live" / "COMPUTE_REPORT.csv")
        detail = read_report(folder / "live" / "DETAILED_ACCESS_REPORT.csv")
    names = {
        "total_cycles": "Total Cycles", "overall_util_pct": "Overall Util %", "mapping_eff_pct": "Mapping Efficiency %",
        "compute_util_pct": "Compute Util %", "sram_ifmap_reads": "SRAM IFMAP Reads",
        "sram_filter_reads": "SRAM Filter Reads",
        "sram_ofmap_writes": "SRAM OFMAP Writes", "dram_ifmap_reads": "DRAM IFMAP Reads",
        "dram_filter_reads": "DRAM Filter Reads", "dram_ofmap_writes": "DRAM OFMAP Writes",
    }  # fmt: skip
    both = [a | b for a, b in zip(compute, detail, strict=True)]
    return [{ours: row[theirs] for ours, theirs in names.items()} for row in both], cpu


def read_report(path: Path) -> list[dict[str, str]]:
    """Rows of one of its reports, names and cells stripped."""
    with path.open() as stream:
        return [
            {(k or "").strip(): (v or "").strip() for k, v in row.items() if isinstance(v, str)}
            for row in csv.DictReader(stream)
        ]


def main() -> None:
    """Write reports/simulator/scalesim.md; fails on a mismatch."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--live", action="store_true")
    parser.add_argument("--environment", type=Path, default=Path(tempfile.gettempdir()) / "hwsim-scalesim")
    arguments = parser.parse_args()
    table, wrong = reference_table()
    parts = [
        "# SCALE-Sim 3.0.0",
        f'Reference rows, `compat="scalesim"`: {wrong} mismatches.',
        table,
        speed_table(),
    ]
    if arguments.live:
        live, live_wrong = live_table(arguments.environment)
        parts += [f"SCALE-Sim run in the same process tree: {live_wrong} mismatches.", live]
        wrong += live_wrong
    write("scalesim.md", "python benchmarks/simulator/scalesim.py --live", *parts)
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
