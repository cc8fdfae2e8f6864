"""The same network in other forms on the same device: float, uniform schemes, PIPE with one order for all."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hwsim.errors import UserError
from hwsim.report.document import ComparisonRow
from quant.scheme import Scheme

if TYPE_CHECKING:
    from hwsim.model.graph import Layer, LayerGraph
    from hwsim.simulate.simulation import Simulation
    from hwsim.stages.error_profile import ErrorProfile
    from hwsim.target.schema import Target

REFERENCE = Scheme(8, 8)
FLOAT = Scheme(None, None)


@dataclass(frozen=True)
class Form:
    """One row to be: what to call it and the scheme of all products."""

    name: str
    scheme: Scheme


def forms(target: "Target") -> list[Form]:
    """The forms every report compares with."""
    pipe = Scheme(4, 8, order=2)
    legal = target.legal_widths("linear") or target.legal_widths("conv2d")
    if legal and (4, 8) not in legal:
        weight_bits, act_bits = min(legal, key=lambda pair: (pair[0], -pair[1]))
        pipe = Scheme(weight_bits, act_bits, order=2)
    return [
        Form("float", FLOAT),
        Form("uniform w8a8", REFERENCE),
        Form("uniform w4a4", Scheme(4, 4)),
        Form("PIPE, uniform order 2", pipe),
    ]


def schemes_for(layer: "Layer", form: Form) -> Scheme:
    """What the form means for one layer: products of two activations have nothing to expand."""
    scheme = form.scheme
    return Scheme(scheme.weight_bits, scheme.act_bits) if layer.kind == "matmul" else scheme


def uniform_error(products: "Sequence[Layer]", form: Form, profile: "ErrorProfile") -> float:
    """Predicted error of the form: the sum over the layers."""
    return sum(profile.layers[layer.name].error(schemes_for(layer, form)) for layer in products)


def compare(graph: "LayerGraph", target: "Target", profile: "ErrorProfile") -> list[ComparisonRow]:
    """One row for each form, simulated in cycle mode."""
    from hwsim.simulate.cycle import simulate_scheme

    rows: list[ComparisonRow] = []
    for form in forms(target):
        error = uniform_error(graph.products(), form, profile)
        try:
            simulation = simulate_scheme(graph, form.scheme, target)
        except UserError as reason:
            rows.append(_absent(form, str(reason)))
            continue
        rows.append(row(form.name, str(form.scheme), simulation, error, note=_note(form, target, simulation)))
    return rows


def row(
    name: str,
    scheme: str,
    simulation: "Simulation",
    error: float | None,
    *,
    chosen: bool = False,
    note: str = "",
) -> ComparisonRow:
    """A comparison row from a simulation."""
    return ComparisonRow(
        name=name,
        scheme=scheme,
        weight_bytes=simulation.weight_bytes,
        bops=float(simulation.bops),
        cycles=simulation.cycles,
        seconds=simulation.seconds,
        energy_joules=simulation.total_energy_pj * 1e-12,
        error=error,
        chosen=chosen,
        note=note,
    )


def _absent(form: Form, reason: str) -> ComparisonRow:
    return ComparisonRow(
        name=form.name, scheme=str(form.scheme), weight_bytes=None, bops=None, cycles=None, seconds=None,
        energy_joules=None, error=None, note=f"not runnable on this device: {reason}",
    )  # fmt: skip


def _note(form: Form, target: "Target", simulation: "Simulation") -> str:
    if form.scheme.is_float:
        return ""
    floats = sum(1 for layer in simulation.layers if layer.scheme == "fp")
    if floats:
        return f"{floats} layers run in float: the device has no engine this wide for them"
    width = (form.scheme.weight_bits, form.scheme.act_bits)
    if width not in target.native_widths("linear") and width not in target.native_widths("conv2d"):
        return "no native width: runs on a wider one"
    return ""
