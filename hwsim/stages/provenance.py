"""What a result was made from: graph, weights, target and versions, as words and hashes."""

import hashlib
from importlib import metadata
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hwsim.model.graph import LayerGraph
    from hwsim.model.load import LoadedModel
    from hwsim.stages.request import PlanRequest
    from hwsim.target.schema import Target
    from quant.scheme import Scheme


def graph_sha256(graph: "LayerGraph") -> str:
    """Hash of the layer graph."""
    return hashlib.sha256(graph.to_json().encode()).hexdigest()


def versions() -> dict[str, str]:
    """Versions of what decides the result."""
    names = ("hwsim", "torch", "timm", "transformers", "ortools", "numba", "numpy")
    return {name: metadata.version(name) for name in names}


def weights_text(model: "LoadedModel") -> str:
    """Where the weights came from, in words."""
    info = model.weights
    words = [info.kind]
    if info.source:
        words.append(info.source)
    if info.seed is not None:
        words.append(f"seed {info.seed}")
    if info.sha256:
        words.append(f"sha256 {info.sha256}")
    return ", ".join(words)


def origin(model: "LoadedModel", target: "Target") -> dict[str, str]:
    """What the option tables of a plan were made from."""
    return {
        "model": model.resolved,
        "model_spec": model.spec,
        "weights": weights_text(model),
        "graph_sha256": graph_sha256(model.graph),
        "target_sha256": target.sha256,
        **{f"version {name}": value for name, value in versions().items()},
    }


def profile_key(
    request: "PlanRequest", model: "LoadedModel", offered: "Sequence[Sequence[Scheme]]", data: str | None
) -> str:
    """Hash of everything the error profile depends on."""
    facts = [weights_text(model), graph_sha256(model.graph), data or "synthetic", str(request.search.seed)]
    facts.append(f"measured {request.measured}")
    facts += [" ".join(map(str, schemes)) for schemes in offered]
    facts += [f"{name} {version}" for name, version in versions().items()]
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()
