"""Predicted against measured: the simulator on a descriptor, and the kernels of an artifact on the device."""

import json
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hwsim.errors import UserError
from hwsim.measure.device import ROUNDS, ArtifactTimes, Device, Sample
from hwsim.measure.layers import Group, grouped, predicted

if TYPE_CHECKING:
    from hwsim.model.graph import LayerGraph
    from hwsim.simulate.simulation import Simulation
    from hwsim.target.schema import Target

NOISY = 1.5
"""A machine whose slowest round takes this many times as long as its fastest does something else besides."""


@dataclass(frozen=True)
class LayerBench:
    """One measured layer (with the vector work counted to it): seconds predicted and measured."""

    name: str
    kind: str
    predicted: float
    measured: Sample

    @property
    def error(self) -> float:
        """(predicted − measured) / measured."""
        return self.predicted / self.measured.median - 1


@dataclass(frozen=True)
class Bench:
    """A compiled model on a device, layer by layer and whole."""

    model: str
    device: str
    target: str
    layers: tuple[LayerBench, ...]
    predicted: float
    measured: Sample

    @property
    def error(self) -> float:
        """(predicted − measured) / measured of the whole inference."""
        return self.predicted / self.measured.median - 1

    @property
    def median_layer_error(self) -> float:
        """Median of the layers' absolute errors."""
        return statistics.median(abs(layer.error) for layer in self.layers) if self.layers else 0.0

    @property
    def remark(self) -> str:
        """What to think of the measurement where the rounds disagree; empty where they do not."""
        spread = self.measured.high / self.measured.low if self.measured.low else 1.0
        if spread <= NOISY:
            return ""
        return (
            f"the slowest round took {spread:.1f} times as long as the fastest: something else runs on "
            f"{self.device}; measure again when it is quiet"
        )

    def document(self) -> dict[str, Any]:
        """As plain data, times in seconds."""
        return {
            "model": self.model, "device": self.device, "target": self.target,
            "predicted_seconds": self.predicted, "measured_seconds": self.measured.median,
            "measured_low": self.measured.low, "measured_high": self.measured.high, "error": self.error,
            "median_layer_error": self.median_layer_error,
            "remark": self.remark,
            "layers": [
                {"name": layer.name, "kind": layer.kind, "predicted_seconds": layer.predicted,
                 "measured_seconds": layer.measured.median, "error": layer.error}
                for layer in self.layers
            ],
        }  # fmt: skip


def run_bench(
    artifact: Path, target: "Target", device: Device, scheme: str | None = None, rounds: int = ROUNDS
) -> Bench:
    """Run the artifact, and set beside it what the simulator says."""
    read_manifest_document(artifact)
    return compared(artifact, target, device.name, device.artifact(artifact, rounds), scheme)


def compared(
    artifact: Path, target: "Target", device: str, times: ArtifactTimes, scheme: str | None = None
) -> Bench:
    """Simulate what the artifact holds, and set it beside what was measured of it."""
    manifest = read_manifest_document(artifact)
    graph = artifact_graph(artifact, manifest)
    simulation = simulate_artifact(artifact, manifest, graph, target, scheme)
    groups = grouped(graph.layers, {name: sample.median for name, sample in times.layers.items()})
    layers = tuple(
        LayerBench(group.name, group.kind, seconds, _sample(group, times.layers[group.name]))
        for group, seconds in zip(groups, predicted(groups, simulation), strict=True)
    )
    return Bench(str(manifest.get("model", "")), device, target.name, layers, simulation.seconds, times.total)


def _sample(group: Group, sample: Sample) -> Sample:
    """The layer's own sample, moved to the group's seconds."""
    share = group.measured / sample.median if sample.median else 1.0
    return Sample(sample.median * share, sample.low * share, sample.high * share, sample.rounds)


def read_manifest_document(artifact: Path) -> dict[str, Any]:
    """The manifest as it stands; files are checked where they are run."""
    path = artifact / "manifest.json"
    try:
        document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot read; name a folder made by hwsim compile") from error
    return document


def artifact_graph(artifact: Path, manifest: dict[str, Any]) -> "LayerGraph":
    """The network's layers: ``graph.json`` in the artifact, else exported anew from the model's name."""
    from hwsim.model.graph import LayerGraph
    from hwsim.simulate.graph_source import layer_graph

    path = artifact / "graph.json"
    if path.is_file():
        return LayerGraph.from_json(path.read_text(encoding="utf-8"))
    shape = manifest["inputs"][0]["shape"] if manifest.get("inputs") else [1]
    sequence = int(shape[1]) if len(shape) == 2 else None
    return layer_graph(str(manifest["model"]), batch=int(shape[0]), sequence=sequence)


def simulate_artifact(
    artifact: Path, manifest: dict[str, Any], graph: "LayerGraph", target: "Target", scheme: str | None
) -> "Simulation":
    """The artifact's plan, or its one scheme, on the described device."""
    from hwsim.documents import read_plan
    from hwsim.simulate.cycle import simulate_scheme
    from hwsim.simulate.plan_file import replay
    from quant.scheme import Scheme

    plan = artifact / "plan.json"
    if scheme is None and plan.is_file():
        return replay(read_plan(plan, "ARTIFACT"), graph, target)
    named = scheme or str(manifest.get("scheme") or "w8a8")
    return simulate_scheme(graph, Scheme.parse(named), target)
