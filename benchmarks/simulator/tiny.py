"""MLPerf Tiny: microcontrollers, small RISC-V cores, and microcontrollers with a neural unit beside them.

A device is one system of one submission: board, build and code generator. Left out are systems whose networks are not
the benchmark's own (FPGA pipelines, Syntiant's) and those without a clock.
"""

from collections.abc import Callable, Iterable

from benchmarks.simulator.held_out import MVP, Row
from hwsim.simulate.calibration import Workload
from hwsim.simulate.class_prior import Parts
from hwsim.target.load import load_target
from hwsim.target.schema import Target

Load = Callable[[str, str, Target], tuple[Workload, Parts]]

# What names the processor in the table, and the class it is shown in. All of them run one core bare, most with
# products of two or four small integers, as the Cortex-M7 of the shipped descriptor does: it is their relative.
CORES = {
    "M0+": "mcu M0+", "M4": "mcu M4", "M33": "mcu M33", "M7": "mcu M7", "M85": "mcu M85", "RXv2": "mcu RXv2",
    "RH850": "mcu RH850", "D25F": "riscv_cpu", "D45": "riscv_cpu", "C906": "riscv_cpu",
}  # fmt: skip
# Neural units beside a core; the relative is a Cortex-M55 with an Ethos-U55. That of Silicon Labs makes two products of
# small integers a cycle (docs.silabs.com, MVP accelerator: two in a complex number), as the Cortex-M7 does.
UNITS = ("NE16", MVP, "Qualcomm Sensing Hub")


def tiny_rows(table: list[dict[str, str]], load: Load) -> Iterable[Row]:
    """Cores from the descriptor of the Cortex-M7 at the table's clock, neural units from that of the Ethos-U55."""
    for row in table:
        processor = row["processor"].replace("®", "")
        # A submission's system names the build: float or int8, and which code generator or memory layout.
        system = row["system"].removesuffix("_int8").removesuffix("_float")
        seconds = 1 / float(row["result"])
        if row["accelerator"] in UNITS:
            hertz = _hertz(row["accel_freq"])
            if row["accelerator"] == MVP and hertz is not None:
                target = load_target("mcu_m7").replace({"clock_hz": hertz})
            else:
                target = load_target("mcu_m55_u55")
            workload, parts = load(row["benchmark"], "w8a8", target)
            device = f"{row['accelerator']}, {system}, {row['version']}"
            yield Row(device, "mcu_npu", row["benchmark"], workload, target, False, seconds, parts)
            continue
        core = next((core for core in CORES if core in processor), None)
        hertz = _hertz(row["cpu_freq"])
        if core is None or hertz is None or row["accelerator"]:
            continue
        target = _core(core, hertz)
        scheme = "float" if row["system"].endswith("_float") else "w8a8"
        stack = f"{row['framework'][:24] or row['submitter']}, {row['version']}"
        maker = "Cortex-" if core.startswith("M") else ""
        device = f"{maker}{core} {hertz / 1e6:.0f} MHz, {stack}, {system}"
        own = core == "M7" and hertz == 280e6
        workload, parts = load(row["benchmark"], scheme, target)
        yield Row(device, CORES[core], row["benchmark"], workload, target, own, seconds, parts)


def _core(core: str, hertz: float) -> Target:
    """The Cortex-M7 at another clock; Helium (M85) makes eight products or four of anything else a cycle."""
    target = load_target("mcu_m7").replace({"clock_hz": hertz})
    if core != "M85" or target.vector is None:
        return target
    changes: dict[str, object] = {
        f"vector.elements_per_cycle.{kind}": 4 * rate
        for kind, rate in target.vector.elements_per_cycle.items()
    }
    for index, rate in enumerate((8, 4)):  # dense products, depthwise ones
        changes[f"engines.{index}.macs_per_cycle.w8a8"] = rate
        changes[f"engines.{index}.output_cycles"] = target.engines[index].output_cycles / 4
    return target.replace(changes)


def _hertz(text: str) -> float | None:
    clock = text.lower().replace(" ", "")
    for unit, factor in (("mhz", 1e6), ("ghz", 1e9)):
        if clock.endswith(unit):
            return float(clock.removesuffix(unit)) * factor
    return None
