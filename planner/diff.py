"""What differs between two plans of the same network: totals, and the layers that were decided otherwise."""

from planner.errors import PlannerError
from planner.plan import Plan, PlanLayer, Totals
from planner.tables import Document


class LayerChange(Document):
    """One layer that the two plans decide differently; ``None`` where a plan has no such layer."""

    name: str
    before: str | None
    after: str | None
    error_change: float
    cycles_change: int


class TotalChange(Document):
    """One quantity in both plans."""

    name: str
    before: float
    after: float

    @property
    def relative(self) -> float | None:
        """Relative change; ``None`` if it started from nothing."""
        return (self.after - self.before) / self.before if self.before else None


class PlanDiff(Document):
    """The difference of two plans."""

    schema_version: int = 1
    same_tables: bool
    totals: tuple[TotalChange, ...]
    layers: tuple[LayerChange, ...]
    unchanged: int


def described(layer: PlanLayer) -> str:
    """A layer's decision in one phrase."""
    held = ", ".join("+".join(map(str, orders)) for orders in layer.holds)
    spread = f" [{held}]" if held else ""
    return f"{layer.scheme} {layer.engine} {layer.way}{spread}"


def diff(before: Plan, after: Plan) -> PlanDiff:
    """Compare two plans layer by layer."""
    if before.model != after.model:
        raise PlannerError(
            f"plans of different models: {before.model!r} and {after.model!r}; compare like with like"
        )
    one = {layer.name: layer for layer in before.layers}
    other = {layer.name: layer for layer in after.layers}
    changes: list[LayerChange] = []
    for name in dict.fromkeys([*one, *other]):
        old, new = one.get(name), other.get(name)
        texts = tuple(None if layer is None else described(layer) for layer in (old, new))
        if texts[0] != texts[1]:
            changes.append(
                LayerChange(
                    name=name,
                    before=texts[0],
                    after=texts[1],
                    error_change=(new.error if new else 0.0) - (old.error if old else 0.0),
                    cycles_change=(new.cycles if new else 0) - (old.cycles if old else 0),
                )
            )
    return PlanDiff(
        same_tables=before.tables_sha256 == after.tables_sha256,
        totals=tuple(
            TotalChange(name=name, before=getattr(before.totals, name), after=getattr(after.totals, name))
            for name in Totals.model_fields
        ),
        layers=tuple(changes),
        unchanged=len(set(one) | set(other)) - len(changes),
    )
