"""How fast the simulator answers: cost mode, cycle mode, and the command from a cold start.

python benchmarks/simulator/speed.py
"""

import itertools
import resource
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from benchmarks.simulator.scalesim import table_of  # noqa: E402
from benchmarks.simulator.tables import markdown, median_seconds, write  # noqa: E402
from hwsim.simulate.cost import layer_costs  # noqa: E402
from hwsim.simulate.cycle import fastest_assignments, simulate_plan  # noqa: E402
from hwsim.simulate.graph_source import layer_graph  # noqa: E402
from hwsim.simulate.pricing import price_points  # noqa: E402
from hwsim.target.load import list_targets, load_target  # noqa: E402
from quant.scheme import Scheme  # noqa: E402
from tests.hwsim.simulate.fake_graph import network, systolic  # noqa: E402

FORMS = (
    "",
    ".o2",
    ".o2.g50",
    ".o2.g25",
    ".o2.c50",
    ".o2.c25",
    ".o2.b1",
    ".o3",
    ".o3.g50",
    ".o3.g50-25",
    ".o4",
    ".o4.g50",
)


def cost_rows() -> list[list[object]]:
    """Cost mode: bare products, all options of a network, many targets."""
    rows: list[list[object]] = []
    machine = systolic(128, 128)
    for model in ("vit_b16", "resnet50"):
        dims, points, terms = table_of(network(model), machine)
        seconds = median_seconds(lambda d=dims, p=points, t=terms: price_points(machine, d, p, t), 101)
        rows.append(
            [
                f"{model}: {len(points)} products, 128 × 128 array",
                f"{1e3 * seconds:.3f} ms",
                f"{len(points) / seconds:,.0f} points/s",
            ]
        )
    schemes = [Scheme.parse(f"w{w}a{a}{form}") for w in (2, 4, 8) for a in (4, 8) for form in FORMS]
    for target in ("edge_gpu", "x86_avx512_vnni"):
        device, layers = load_target(target), layer_graph("vit_b").products()
        options = sum(map(len, layer_costs(layers, [schemes] * len(layers), device)))
        seconds = median_seconds(lambda ls=layers, d=device: layer_costs(ls, [schemes] * len(ls), d), 7)
        rows.append(
            [
                f"vit_b on {target}: {options:,} options",
                f"{1e3 * seconds:.0f} ms",
                f"{options / seconds:,.0f} options/s",
            ]
        )
    machines = [
        systolic(r, c, units=u) for r, c, u in itertools.product((8, 16, 32, 64, 128), (16, 64), (1, 4))
    ]
    tables = [(m, *table_of(network("resnet50"), m)) for m in machines]
    seconds = median_seconds(lambda: [price_points(m, d, p, t) for m, d, p, t in tables], 15)
    count = sum(len(points) for _, _, points, _ in tables)
    rows.append(
        [
            f"{count:,} (layer, scheme, target) points, {len(machines)} targets",
            f"{1e3 * seconds:.1f} ms",
            f"{count / seconds:,.0f} points/s",
        ]
    )
    return rows


def cycle_rows() -> list[list[object]]:
    """Cycle mode: replay of a whole vit_b plan on every shipped target."""
    graph = layer_graph("vit_b")
    rows: list[list[object]] = []
    for name in list_targets():
        device = load_target(name)
        plan = fastest_assignments(graph.layers, Scheme(8, 8), device)
        seconds = median_seconds(lambda d=device, p=plan: simulate_plan(graph, p, 1, d), 9)
        rows.append([name, f"{1e3 * seconds:.1f}"])
    return rows


def cold_rows() -> list[list[object]]:
    """CPU time of fresh processes; compiled code and layer graphs come from their caches."""
    program = "from hwsim.cli.main import main; main()"
    rows: list[list[object]] = []
    for arguments in ("--model vit_b --target edge_gpu", "--model resnet50 --target x86_amx --json"):
        times: list[float] = []
        for _ in range(5):
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            command = [sys.executable, "-c", program, "simulate", *arguments.split()]
            subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            times.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        rows.append([f"simulate {arguments}", f"{statistics.median(times):.2f}"])
    return rows


def main() -> None:
    """Write reports/simulator/speed.md."""
    write(
        "speed.md",
        "python benchmarks/simulator/speed.py",
        "# Speed of the simulator",
        "Median CPU times of one thread, warm unless said otherwise.",
        markdown(["cost mode", "time", "rate"], cost_rows()),
        markdown(["cycle mode, vit_b w8a8 on", "ms"], cycle_rows()),
        markdown(["fresh process, caches filled", "s, median of 5"], cold_rows()),
    )


if __name__ == "__main__":
    main()
