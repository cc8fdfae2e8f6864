"""Networks and their option tables on shipped targets, made as ``hwsim plan`` makes them.

The error profile is the costly part and depends on the network alone; it is made once for all targets, over the
schemes that any of them offers. Weights: real ones where ``../shared/data`` has them, else random of seed 0.
"""

from dataclasses import dataclass
from pathlib import Path

from hwsim.model.load import LoadedModel, load_model
from hwsim.simulate.cost import OptionCost, layer_costs
from hwsim.simulate.vector import vector_costs
from hwsim.stages import comparison
from hwsim.stages.error_profile import ErrorProfile, profile_errors, synthetic_inputs
from hwsim.stages.options import network_schemes
from hwsim.stages.request import Widths
from hwsim.stages.tables import fill_tables
from hwsim.target.load import load_target
from hwsim.target.schema import Target
from planner.tables import Tables
from quant.scheme import Scheme

ROOT = Path(__file__).resolve().parents[2]
REAL_WEIGHTS = {
    "vit_t": "vit_tiny_patch16_224.safetensors",
    "mobilenet_v2": "mobilenetv2_100_tfslim.safetensors",
}
SEED = 0


@dataclass(frozen=True)
class Priced:
    """One network on one target: the planner's tables and what they were made from."""

    model: LoadedModel
    target: Target
    profile: ErrorProfile
    costs: list[list[OptionCost]]
    tables: Tables


@dataclass(frozen=True)
class Network:
    """A loaded network with the errors of every scheme that one of the targets offers."""

    model: LoadedModel
    weights: str
    targets: tuple[Target, ...]
    profile: ErrorProfile

    def on(self, target: Target) -> Priced:
        """The option tables on one target."""
        graph = self.model.graph
        offered = network_schemes(graph.products(), target, Widths())
        costs = layer_costs(graph.products(), offered, target, graph_layers=graph.layers)
        vectors = vector_costs(graph.layers, target)
        tables = fill_tables(graph, target, costs, vectors, self.profile.layers, {})
        return Priced(self.model, target, self.profile, costs, tables)


def shipped_targets() -> list[Target]:
    """Every descriptor in ``targets/``."""
    return [load_target(path.stem) for path in sorted((ROOT / "targets").glob("*.yaml"))]


def network(name: str, targets: list[Target], shared: Path, extra: tuple[Scheme, ...] = ()) -> Network:
    """Load a network and profile every scheme of ``targets``, and ``extra`` on all weighted products."""
    file = shared / "data" / "models" / REAL_WEIGHTS[name] if name in REAL_WEIGHTS else None
    weights = file if file is not None and file.exists() else None
    model = load_model(name, weights=weights, seed=SEED)
    products = model.graph.products()
    everything: list[dict[Scheme, None]] = [{} for _ in products]
    for target in targets:
        forms = [*comparison.profiled_forms(target), *(comparison.Form(str(s), s) for s in extra)]
        for found, layer, schemes in zip(
            everything, products, network_schemes(products, target, Widths()), strict=True
        ):
            found.update(dict.fromkeys(schemes))
            found.update(dict.fromkeys(comparison.schemes_for(layer, form) for form in forms))
    profile = profile_errors(
        model, [list(found) for found in everything], synthetic_inputs(model, SEED), data=None, seed=SEED
    )
    return Network(model, "real" if weights else "random, seed 0", tuple(targets), profile)
