"""Read a ``plan.json`` as assignments for the replay."""

from pathlib import Path
from typing import TYPE_CHECKING

from hwsim.errors import UserError
from hwsim.simulate.cycle import LayerAssignment
from quant.scheme import Scheme

if TYPE_CHECKING:
    from planner.plan import Plan


def read_plan(path: Path) -> "Plan":
    """A plan document; a mistake names the first field that is wrong."""
    from pydantic import ValidationError

    from planner.plan import Plan

    try:
        return Plan.model_validate_json(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path}: cannot read ({error.strerror or error})") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "document"
        raise UserError(f"{path}: not a plan ({where}: {first['msg']}); write one with hwsim plan") from error


def assignments_of(plan: "Plan") -> dict[str, LayerAssignment]:
    """The decision for each product layer."""
    return {
        layer.name: LayerAssignment(Scheme.parse(layer.scheme), layer.engine, layer.way, layer.holds)
        for layer in plan.layers
    }
