"""A pin that no option of its layer answers is a slip of the person: one line with what the layer has instead.

To the planner it is one more demand that contradicts the tables; only here is known what was not offered, and why.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from hwsim.errors import UserError

if TYPE_CHECKING:
    from planner.tables import Tables
    from quant.scheme import Scheme

_SHOWN = 6


def check_pins(
    tables: "Tables", pins: tuple[str, ...], overflowing: "Mapping[str, Sequence[Scheme]] | None" = None
) -> None:
    """Refuse the first pin without an option; ``overflowing`` are schemes by layer that the accumulators rule out."""
    from planner.select import parse_rules

    for rule in parse_rules(tables, pins, "--pin"):
        for layer in filter(rule.covers, tables.layers):
            if any(map(rule.matches, layer.options)):
                continue
            left_out = [
                str(scheme)
                for scheme in (overflowing or {}).get(layer.name, ())
                if rule.allows(str(scheme), scheme.weight_bits, scheme.act_bits)
            ]
            why = (
                f"the sums of {_few(left_out)} can leave the accumulators"
                if left_out
                else "it is not among the options"
            )
            has = _few(list(dict.fromkeys(option.scheme for option in layer.options)))
            raise UserError(
                f"--pin {rule.text!r}: layer {layer.name} ({layer.kind}) cannot have it on {tables.target}, {why}; "
                f"the layer has {has}"
            )


def _few(names: "Sequence[str]") -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
