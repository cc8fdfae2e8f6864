"""Phones and boards: Qualcomm's AI Hub (Hexagon processors and, where a network fell back, CPUs), and Apple's own page.

Rows of networks whose layers are split over several units are left out.
"""

from collections.abc import Callable, Iterable

from benchmarks.simulator.held_out import Row
from hwsim.simulate.calibration import Workload
from hwsim.simulate.class_prior import Parts
from hwsim.target.load import load_target
from hwsim.target.schema import Target

Load = Callable[[str, str, Target], tuple[Workload, Parts]]

FASTVIT_MS = {  # iPhone 12 Pro, Core ML, 256 x 256 (hardware_facts.md, section 10)
    "fastvit_t8": 0.8, "fastvit_t12": 1.2, "fastvit_s12": 1.4, "fastvit_sa12_256": 1.6, "fastvit_sa24": 2.6,
    "fastvit_sa36": 3.5, "fastvit_ma36": 4.6,
}  # fmt: skip


def hexagon_rows(table: list[dict[str, str]], schemes: Iterable[str], load: Load) -> Iterable[Row]:
    """Batch 1 on the device's neural processor."""
    # The vector memory is filled anew in each inference: weights stream from DRAM even where they would fit.
    target = load_target("hexagon").replace({"memories.0.holds": ["activations", "partial_sums"]})
    known = frozenset(schemes)
    for row in table:
        if row["primary_unit"] == "NPU" and row["precision"] in known:
            own = row["device"].startswith("Snapdragon X Elite") and row["runtime"] == "qnn_dlc"
            workload, parts = load(row["model"], row["precision"], target)
            name, seconds = f"{row['device']}, {row['runtime']}", float(row["inference_ms"]) / 1e3
            yield Row(name, "dsp_npu", row["model"], workload, target, own, seconds, parts)


def cpu_rows(table: list[dict[str, str]], load: Load) -> Iterable[Row]:
    """Integer networks that ONNX Runtime ran on the phone's CPU; relatives of four Cortex-A76."""
    target = load_target("mobile_cpu")
    for row in table:
        if row["primary_unit"] == "CPU" and row["precision"] == "w8a8":
            workload, parts = load(row["model"], "w8a8", target)
            name, seconds = f"{row['device']}, CPU, {row['runtime']}", float(row["inference_ms"]) / 1e3
            yield Row(name, "mobile_cpu", row["model"], workload, target, False, seconds, parts)


def apple_rows(load: Load) -> Iterable[Row]:
    """FastViT in 16-bit floats on the neural engine, from seven fields; the figures have two digits."""
    target = Target.model_validate(
        {  # recalled, unverified: 11 TOPS, 34 GB/s; a call takes 110 us (aneforge.readthedocs.io, dispatch); the rest
            # is guessed
            "schema_version": 1, "name": "a14_ane", "class": "edge_npu", "clock_hz": 1.3e9, "units": 16,
            "engines": [{"macs_per_cycle": 11e12 / 2 / 1.3e9 / 16}],
            "memories": [{"name": "sram", "bytes": "4 MiB"}, {"name": "lpddr4x", "bandwidth": "34 GB/s"}],
            "float_fallback": {"macs_per_cycle": 11e12 / 2 / 1.3e9 / 16, "bits": 16}, "power_w": 6,
            "launch": {"per_inference": "110 us"},
        }
    )  # fmt: skip
    for network, milliseconds in FASTVIT_MS.items():
        workload, parts = load(network, "float", target)
        name = "Apple A14 neural engine, Core ML"
        yield Row(name, "edge_npu", network, workload, target, False, milliseconds / 1e3, parts)
