"""How a run tells which stage it is in, and how long each stage of ``plan`` should take.

The estimates only share out a bar and say what time is left, so one line for each stage is enough: seconds of a
machine with two x86 cores (``reports/plan_cold.md``), scaled by what the stage's work grows with.
"""

import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from hwsim.model.graph import LayerGraph
    from hwsim.stages.request import PlanRequest

LOADING, PROFILING, PRICING = "loading the model", "profiling errors", "pricing options"
SOLVING, REPLAYING, FRONTIER, WRITING = (
    "solving", "replaying the plan", "proving the frontier", "writing the report",
)  # fmt: skip
_MACS_A_SECOND = 30e9
_PASSES = 3  # a forward pass and its gradient
_PROBES = 2
_CALIBRATION_SAMPLES = 64


class StageProgress(Protocol):
    """What a progress display must offer."""

    seconds: dict[str, float]

    def expect(self, seconds: Mapping[str, float]) -> None:
        """How long each stage should take; the bar is shared out by it."""
        ...

    def stage(self, name: str) -> "AbstractContextManager[None]":
        """Run one stage."""
        ...

    def note(self, text: str) -> None:
        """Change the text beside the bar."""
        ...


@dataclass
class Silent:
    """Nobody watches; how long each stage took is remembered. Displays build on it."""

    seconds: dict[str, float] = field(default_factory=dict[str, float])

    @contextmanager
    def stage(self, name: str) -> Generator[None]:
        """Run one stage."""
        start = time.perf_counter()
        self.begin(name)
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start

    def expect(self, seconds: Mapping[str, float]) -> None:
        """How long each stage should take."""

    def begin(self, name: str) -> None:
        """A stage starts."""

    def note(self, text: str) -> None:
        """Change the text beside the bar."""


def expected_seconds(request: "PlanRequest", graph: "LayerGraph | None" = None) -> dict[str, float]:
    """Seconds of each stage of ``plan``; without the graph, those of a network of middle size."""
    macs, parameters, products = (5e9, 25e6, 50)
    if graph is not None:
        macs, parameters, products = graph.total_macs, graph.parameters, len(graph.products())
    samples = _PROBES if request.calibration_data is None else _CALIBRATION_SAMPLES
    forward = macs / _MACS_A_SECOND
    alone = request.measured * products * 0.5 * forward  # half a pass for each layer on its own
    return {
        LOADING: 3.0 + 10e-9 * parameters,
        PROFILING: 0.5 + 30e-9 * parameters + _PASSES * samples * forward + alone,
        PRICING: 0.1,
        SOLVING: 0.5 + 0.005 * products * (1 + request.search.alternatives + 6 * request.search.explain),
        REPLAYING: 0.1 + 0.002 * products,
        FRONTIER: 0.01 * products * request.pareto,
        WRITING: 0.1 + 0.002 * products,
    }
