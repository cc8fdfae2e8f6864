"""Report documents made by hand, small or large, for the tests of the renderings."""

import math

from hwsim.report.document import (
    AnytimePoint,
    Budget,
    Ceiling,
    ComparisonRow,
    LayerRow,
    MemoryPoint,
    MemoryUse,
    ParetoPoint,
    Provenance,
    Report,
    Roofline,
    SensitivityMap,
    Stage,
    TimelineEvent,
    Validation,
)

SCHEMES = ["w4a8", "w4a8.o2.g50", "w4a8.o2", "w8a8"]


def form(name: str, scheme: str, seconds: float | None, error: float | None, **other) -> ComparisonRow:
    return ComparisonRow(
        name=name, scheme=scheme, weight_bytes=None if seconds is None else 1e6, bops=1e9, cycles=1e5,
        seconds=seconds, energy_joules=1e-3, error=error, **other,
    )  # fmt: skip


def layer_row(index: int, name: str | None = None) -> LayerRow:
    cycles = 1000.0 + 17 * (index % 29)
    if index % 3 == 2:
        return LayerRow(
            name=name or f"blocks.{index}.norm", kind="norm", scheme="layer_norm", engine="vector", way="", macs=0,
            bops=0, predicted_cycles=cycles, simulated_cycles=cycles, share_of_time=0.1, error=None, bound="memory",
            unit="all 4",
        )  # fmt: skip
    return LayerRow(
        name=name or f"blocks.{index}.mlp.fc1", kind="linear", scheme=SCHEMES[index % 4], engine="dot", way="rows",
        macs=1_000_000 + index, bops=6.4e7, predicted_cycles=cycles, simulated_cycles=cycles * 1.02,
        share_of_time=0.1, error=1e-5 * (1 + index % 7), bound="compute", runner_up="w8a8",
        runner_up_cost="error -1e-05, cycles +120, breaks latency", faster_than_float=1.7, unit="core 0",
        memory_bytes=4096.0 + index,
    )  # fmt: skip


def sample(layers: int = 6, units: int = 4, name: str = "vit_tiny", **changes) -> Report:
    rows = [layer_row(index) for index in range(layers)]
    total = sum(row.simulated_cycles or 0 for row in rows)
    rows = [row.model_copy(update={"share_of_time": (row.simulated_cycles or 0) / total}) for row in rows]
    products = [row for row in rows if row.is_product]
    predicted = sum(row.predicted_cycles for row in rows)
    step = total / (3 * layers)
    fields = {
        "model": name,
        "target": "edge_board",
        "target_description": "Four cores and a shared memory",
        "illustrative": False,
        "error_meaning": "predicted divergence of the output in nats",
        "headline": f"{name} on edge_board: 3 ms",
        "solver": "proven optimal in error, then latency (100 options, 40 after pruning)",
        "budgets": [Budget(name="latency", unit="time", limit=4e-3, value=3e-3, asked_by="--max-latency")],
        "not_honoured": [],
        "warnings": ["one remark"],
        "comparison": [
            form("float", "fp", 8e-3, 0.0),
            form("uniform w8a8", "w8a8", 4e-3, 2e-4),
            form("best single scheme", "", None, None, note="none is as fast"),
            form("this plan", "mixed, 4 schemes", 3e-3, 3e-4, chosen=True),
        ],
        "layers": rows,
        "pareto": [ParetoPoint(seconds=(2 + i) * 1e-3, error=1e-3 / (1 + i) ** 2) for i in range(3)]
        + [ParetoPoint(seconds=3e-3, error=3e-4, chosen=True)],
        "sensitivity": SensitivityMap(
            schemes=SCHEMES,
            layers=[row.name for row in products],
            errors=[[math.exp(-c - i % 5) * 1e-3 for c in range(4)] for i in range(len(products))],
        ),
        "roofline": Roofline(
            memory="dram",
            bytes_per_second=1e10,
            ceilings=[
                Ceiling(name="w8a8", macs_per_second=1e12),
                Ceiling(name="float", macs_per_second=2e11),
            ],
        ),
        "timeline": [
            TimelineEvent(
                resource=f"core {unit}", name=f"job {index}", start=index * step + unit, duration=step * 0.8,
                category=("load", "compute", "store")[index % 3],
            )
            for unit in range(units)
            for index in range(3 * layers)
        ],
        "validation": Validation(
            predicted_cycles=predicted, simulated_cycles=total, bound=0.15, roofline_cycles=total * 0.5,
            serial_cycles=total * 1.5,
        ),
        "anytime": [
            AnytimePoint(order=k, scheme=f"w4a8.o{k}", seconds=k * 2e-3, error=10.0**-k, weight_bytes=k * 1e6)
            for k in (1, 2, 3)
        ],
        "memory": MemoryUse(
            weight_bytes=1e6,
            weight_home="dram",
            activation_home="sram",
            points=[
                MemoryPoint(
                    layer=row.name, start_cycles=i * 1000.0, activation_bytes=1e4 * (1 + i % 3)
                )
                for i, row in enumerate(rows)
            ],
        ),
        "energy_by_component": {"mac": 1e-3, "dram": 2e-3},
        "peak_memory_bytes": 1.03e6,
        "units": units,
        "clock_hz": 1e9,
        "stages": [Stage(name="solving", seconds=0.25)],
        "provenance": Provenance(
            command="hwsim plan --target edge_board --model vit_tiny", model=name, model_spec=name,
            weights="pretrained", target="edge_board", target_sha256="a" * 64, graph_sha256="b" * 64, seed=0,
            versions={"hwsim": "0.1.0"}, sensitivity="Fisher information from 64 images", plan_sha256="c" * 64,
        ),
        "unavailable": {"measured latency": "no artifact was run"},
        "not_modelled": ["thermal limits"],
        "reproduce": ["hwsim plan --target edge_board --model vit_tiny", "hwsim report out"],
    }  # fmt: skip
    return Report(**(fields | changes))


def bare() -> Report:
    """No figure at all was obtained."""
    return sample(
        layers=1, comparison=[], pareto=[], sensitivity=None, roofline=None, timeline=[], anytime=[],
        memory=None, energy_by_component={}, peak_memory_bytes=None, budgets=[], warnings=[], reproduce=[],
        unavailable={"Pareto frontier": "not asked for"},
    )  # fmt: skip
