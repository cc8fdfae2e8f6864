"""Where kernels and artifacts are timed: in this process, or (``hwsim.measure.remote``) behind a TVM RPC server.

A figure is the median of rounds, a round the fastest of several calls: a preempted call says nothing of the machine.
"""
# pyright: basic
# tvm_ffi is untyped where it matters.

import platform
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter, thread_time
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

if TYPE_CHECKING:
    from hwsim.compile.build import Kernel
    from hwsim.compile.isa import Isa

ROUNDS = 5
CALLS = 4  # of which a round keeps the fastest
CALL_SECONDS = 1e-3  # calls shorter than this are timed together


@dataclass(frozen=True)
class Sample:
    """Seconds: median, lowest and highest of the rounds."""

    median: float
    low: float
    high: float
    rounds: int

    @classmethod
    def of(cls, seconds: list[float]) -> "Sample":
        """Summary of the rounds."""
        return cls(statistics.median(seconds), min(seconds), max(seconds), len(seconds))


@dataclass(frozen=True)
class ArtifactTimes:
    """A compiled model: seconds of each layer's kernels, of a whole inference, and kernel calls of one."""

    layers: dict[str, Sample]
    total: Sample
    calls: int


class Device(Protocol):
    """Something that runs kernels and tells how long they take."""

    name: str
    isa: "Isa"

    def kernel(self, kernel: "Kernel", arrays: list[np.ndarray]) -> Sample:
        """Seconds of one call of a kernel on these arrays."""
        ...

    def artifact(self, directory: Path, rounds: int = ROUNDS) -> ArtifactTimes:
        """Seconds of a compiled model, layer by layer and whole."""
        ...


def sampled(call: Callable[[], Any], rounds: int = ROUNDS) -> Sample:
    """Seconds of one call."""
    call()
    start = perf_counter()
    call()
    together = max(1, int(CALL_SECONDS / max(perf_counter() - start, 1e-7)))

    def once() -> float:
        begun = perf_counter()
        for _ in range(together):
            call()
        return (perf_counter() - begun) / together

    return Sample.of([min(once() for _ in range(CALLS)) for _ in range(rounds)])


def example_inputs(ports: Any) -> dict[str, np.ndarray]:
    """Seeded inputs: noise for floats, small numbers for tokens."""
    random = np.random.default_rng(0)
    return {
        port.name: random.standard_normal(port.shape).astype(port.dtype)
        if np.issubdtype(np.dtype(port.dtype), np.floating)
        else random.integers(0, 100, port.shape).astype(port.dtype)
        for port in ports
    }


def by_layer(layers: list[str], rounds: list[list[float]]) -> dict[str, Sample]:
    """Seconds of each layer from seconds of each step, round by round."""
    names = list(dict.fromkeys(layers))
    sums = [dict.fromkeys(names, 0.0) for _ in rounds]
    for total, steps in zip(sums, rounds, strict=True):
        for name, seconds in zip(layers, steps, strict=True):
            total[name] += seconds
    return {name: Sample.of([total[name] for total in sums]) for name in names}


class Local:
    """This process."""

    def __init__(self, isa: "Isa | None" = None) -> None:
        from hwsim.compile.isa import host_isa

        self.isa = isa or host_isa()
        self.name = machine_name()

    def kernel(self, kernel: "Kernel", arrays: list[np.ndarray]) -> Sample:
        """Seconds of one call."""
        from tvm_ffi import from_dlpack

        from hwsim.compile.build import aligned, host_kernel

        tensors = [from_dlpack(aligned(array)) for array in arrays]
        function = host_kernel(kernel, self.isa)
        return sampled(lambda: function(*tensors))

    def artifact(self, directory: Path, rounds: int = ROUNDS) -> ArtifactTimes:
        """Steps are timed where they stand, one after the other; whole inferences in between."""
        from hwsim.runtime import load

        model = load(directory)
        model.set_inputs(**example_inputs(model.inputs))
        model.run()
        # One thread's own time leaves out what other processes took of the core, and what a device did meanwhile.
        alone = model.manifest["threads"] == 1 and "module.so" in model.manifest["files"]
        clock = thread_time if alone else perf_counter
        steps: list[list[float]] = []
        totals: list[float] = []
        for _ in range(rounds):
            steps.append([seconds for _, _, seconds in model.profile(CALLS)])
            totals.append(min(_timed(model.run, clock) for _ in range(CALLS)))
        return ArtifactTimes(by_layer(model.layers, steps), Sample.of(totals), len(model.layers))


def _timed(call: Callable[[], Any], clock: Callable[[], float]) -> float:
    start = clock()
    call()
    return clock() - start


def machine_name() -> str:
    """What processor this is."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    found = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return found or platform.processor() or platform.machine()


def clock_hz() -> float:
    """Nominal clock; times are measured in seconds, so it only sets the unit of what is given in cycles."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return 1e9
    found = next((line.partition(":")[2] for line in lines if line.lower().startswith("cpu mhz")), "1000")
    return round(float(found) * 1e6, -6)


def caches() -> list[tuple[str, int, bool]]:
    """Name, bytes and whether it is shared, of each data cache from the core outwards; empty where unknown."""
    found: list[tuple[str, int, bool]] = []
    for place in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        try:
            kind, level, size, shared = (
                (place / name).read_text(encoding="utf-8").strip()
                for name in ("type", "level", "size", "shared_cpu_list")
            )
        except OSError:
            continue
        if kind != "Instruction":
            units = {"K": 1024, "M": 1 << 20}
            number = int(size.rstrip("KM")) * units.get(size[-1], 1)
            found.append((f"l{level}", number, shared not in ("0", "0-0") and int(level) > 2))
    return found
