"""Which options a pin or a forbid means: ``LAYERS=SCHEMES`` with shell wildcards and bit conditions.

``head=w8a8``, ``blocks.0.*=w2*|w3*``, ``kind:depthwise=w8*``, ``head=w>=8``, ``*=a<=4``.
"""

import operator
import re
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase

from planner.errors import PlannerError
from planner.tables import LayerOption, LayerTable, Tables

_CONDITION = re.compile(r"([wa])(<=|>=|<|>)(\d+)")
_COMPARE = {"<=": operator.le, ">=": operator.ge, "<": operator.lt, ">": operator.gt}
_FLOAT_BITS = 32


@dataclass(frozen=True, slots=True)
class Rule:
    """One parsed pin or forbid."""

    text: str
    layers: str
    schemes: tuple[str, ...]

    @classmethod
    def parse(cls, text: str, flag: str) -> "Rule":
        """Read ``LAYERS=SCHEMES``; ``flag`` names the source of a mistake."""
        layers, equals, schemes = text.partition("=")
        alternatives = tuple(word.strip() for word in schemes.split("|"))
        if not equals or not layers.strip() or not all(alternatives):
            raise PlannerError(f"{flag} {text!r}: write LAYERS=SCHEMES, for example 'head=w8a8'")
        return cls(text, layers.strip(), alternatives)

    def covers(self, layer: LayerTable) -> bool:
        """Whether the rule speaks of this layer."""
        if self.layers.startswith("kind:"):
            return fnmatchcase(layer.kind, self.layers.removeprefix("kind:"))
        return fnmatchcase(layer.name, self.layers)

    def matches(self, option: LayerOption) -> bool:
        """Whether the option is one of the rule's schemes."""
        return self.allows(option.scheme, option.weight_bits, option.act_bits)

    def allows(self, scheme: str, weight_bits: int | None, act_bits: int | None) -> bool:
        """Whether a scheme of these widths is one of the rule's."""
        return any(_matches(scheme, weight_bits, act_bits, pattern) for pattern in self.schemes)


def _matches(scheme: str, weight_bits: int | None, act_bits: int | None, pattern: str) -> bool:
    condition = _CONDITION.fullmatch(pattern)
    if condition is None:
        return fnmatchcase(scheme, pattern)
    bits = weight_bits if condition.group(1) == "w" else act_bits
    return _COMPARE[condition.group(2)](_FLOAT_BITS if bits is None else bits, int(condition.group(3)))


def parse_rules(tables: Tables, texts: tuple[str, ...], flag: str) -> list[Rule]:
    """Parse pins or forbids; a rule that speaks of no layer is a typing mistake."""
    rules = [Rule.parse(text, flag) for text in texts]
    for rule in rules:
        if not any(rule.covers(layer) for layer in tables.layers):
            names = {layer.name for layer in tables.layers}
            names |= {f"kind:{layer.kind}" for layer in tables.layers}
            near = get_close_matches(rule.layers, sorted(names), n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"names are like {tables.layers[0].name!r}"
            raise PlannerError(f"{flag} {rule.text!r}: no layer matches {rule.layers!r}; {hint}")
    return rules


def legal_options(tables: Tables, pins: tuple[str, ...], forbids: tuple[str, ...]) -> list[list[int]]:
    """For each layer the indices of its options that pins and forbids leave; may be empty."""
    pinned = parse_rules(tables, pins, "pin")
    forbidden = parse_rules(tables, forbids, "forbid")
    legal: list[list[int]] = []
    for layer in tables.layers:
        pins_here = [rule for rule in pinned if rule.covers(layer)]
        forbids_here = [rule for rule in forbidden if rule.covers(layer)]
        legal.append(
            [
                index
                for index, option in enumerate(layer.options)
                if all(rule.matches(option) for rule in pins_here)
                and not any(rule.matches(option) for rule in forbids_here)
            ]
        )
    return legal
