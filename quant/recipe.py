"""A recipe: which calibrated methods to apply, as data (``repquant+pipe+bc`` or a mapping from YAML).

A recipe is an ordered list of items; an item is a step or an alias for several steps. Items are always applied
in the canonical order (ranges, reparameterization, rounding, expansion, learned rounding, bias), whatever the order
they are written in, because each step relies on the ones before it.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self

from quant.errors import QuantError

Setting = bool | int | float | str

STEPS: dict[str, dict[str, Setting]] = {
    "dfq": {},
    "mse": {},
    "percentile": {},
    "reparam": {"target": "mean"},
    "clip": {"steps": 200, "learning_rate": 0.01, "batch_tokens": 1024},
    "logsoftmax": {"zero": "strict", "base": "sqrt2"},
    "squant": {},
    "pow2": {},
    "gptq": {"damp": 0.01, "block": 128, "act_order": False},
    "asymmetric": {},
    "pipe": {"order": 2},
    "pd": {"preset": "fast", "architecture": "auto", "iterations": -1},
    "bc": {"shrinkage": "layer", "path": "auto", "axes": "groups", "gain": "auto"},
}
"""Steps in canonical order, with the settings each takes and their defaults.

``pd`` decides the rounding and starts from the float weights, so the bias comes after it: one that was fitted to
another rounding would repair errors that are gone.

``dfq`` equalises ranges across ReLU first; ``squant`` (flips), ``pow2`` (power-of-two scales) and ``gptq`` are
alternative operators for the first order of an expansion.
``bc``: the path whose mean error is repaired, ``quantized`` (all that arrived at a layer's output), ``local`` (what
the layer itself adds) or ``float`` (the authors' form), and the gain that goes with it, ``none``, one a ``layer`` or
one a ``channel``; with ``auto`` as path, samples held out choose both, with a path that is named, no gain is.
``pd``: preset ``fast`` (two cores), ``paper`` (the authors' settings) or ``qdrop`` (fast, without the prediction
difference); -1 iterations are the preset's own.
"""

ALIASES: dict[str, tuple[str, ...]] = {
    "rtn": (),
    "repquant": ("mse", "reparam", "clip", "gptq"),
    "repqvit": ("percentile", "reparam", "logsoftmax"),
}
"""``repqvit`` is the authors' recipe; ``repquant`` leaves the softmax uniform: two accumulators cost two products."""


@dataclass(frozen=True)
class Span:
    """Numbers that a setting takes: from ``low`` on, or above it where ``low`` itself is ``open``."""

    low: float
    open: bool = False

    def __contains__(self, value: float) -> bool:
        return math.isfinite(value) and (value > self.low if self.open else value >= self.low)

    def __str__(self) -> str:
        return f"a number above {self.low:g}" if self.open else f"{self.low:g} or more"


ALLOWED: dict[str, dict[str, tuple[str, ...] | Span]] = {
    "reparam": {"target": ("mean", "geometric", "pow2")},
    "clip": {"steps": Span(0), "learning_rate": Span(0, open=True), "batch_tokens": Span(1)},
    "logsoftmax": {"zero": ("strict", "extended"), "base": ("sqrt2", "2")},
    "gptq": {"damp": Span(0, open=True), "block": Span(1)},
    "pipe": {"order": Span(1)},
    "pd": {
        "preset": ("fast", "paper", "qdrop"),
        "architecture": ("auto", "resnet", "regnet", "mobilenet", "mnasnet", "transformer"),
        "iterations": Span(-1),
    },
    "bc": {
        "shrinkage": ("none", "layer", "coordinate"),
        "path": ("auto", "quantized", "local", "float", "fp"),
        "axes": ("channel", "position", "groups"),
        "gain": ("auto", "none", "layer", "channel"),
    },
}
"""The words or numbers that the settings take; one that is yes or no is not listed."""

NEEDS: dict[str, tuple[str, str]] = {
    "clip": ("reparam", "clip learns the ranges that reparam folds into the norms"),
    "asymmetric": ("gptq", "asymmetric is a target for gptq"),
}
"""Steps that say how another one works: which, and why."""

ALTERNATIVES: tuple[tuple[tuple[str, ...], str], ...] = (
    (("mse", "percentile"), "set the activation ranges"),
    (("squant", "pow2", "gptq"), "make the first order"),
)
"""Steps of which a recipe takes one, and what each of them does."""

_ORDER = list(STEPS)


@dataclass(frozen=True)
class Recipe:
    """Items in canonical order and the settings that differ from the defaults."""

    items: tuple[str, ...] = ()
    settings: Mapping[str, Mapping[str, Setting]] = field(default_factory=dict[str, Mapping[str, Setting]])

    def __post_init__(self) -> None:
        """Check names, order the items, check the settings and that the steps fit together."""
        for item in self.items:
            if item not in STEPS and item not in ALIASES:
                known = ", ".join([*ALIASES, *STEPS])
                raise QuantError(f"recipe: no step {item!r}; choose from {known}")
        if len(set(self.items)) != len(self.items):
            raise QuantError(f"recipe {'+'.join(self.items)}: an item is named twice")
        object.__setattr__(self, "items", tuple(sorted(self.items, key=_position)))
        for step, values in self.settings.items():
            if step not in STEPS:
                raise QuantError(f"recipe: settings for {step!r}, which is no step")
            for name, value in values.items():
                _check_setting(step, name, value)
        _check_together(self.steps)

    @classmethod
    def parse(cls, source: "str | Mapping[str, object]") -> Self:
        """Read ``a+b+c``, or ``{"steps": [...], "gptq": {"damp": 0.02}}``."""
        if isinstance(source, str):
            return cls(tuple(part.strip() for part in source.split("+") if part.strip()))
        listed = source.get("steps")
        if not isinstance(listed, Sequence) or isinstance(listed, str):
            raise QuantError("recipe: 'steps' must be a list of step names")
        settings: dict[str, Mapping[str, Setting]] = {}
        for step, values in source.items():
            if step == "steps":
                continue
            if not isinstance(values, Mapping):
                raise QuantError(f"recipe {step}: settings must be a mapping of names to values")
            settings[step] = {str(name): value for name, value in values.items()}
        made = cls(tuple(str(item) for item in listed), settings)
        idle = next((step for step in settings if step not in made.steps), None)
        if idle is not None:
            raise QuantError(
                f"recipe {idle}: has settings but is not among the steps; add it to steps or drop them"
            )
        return made

    def __str__(self) -> str:
        """The short form; ``rtn`` when nothing is applied."""
        return "+".join(self.items) or "rtn"

    @property
    def steps(self) -> tuple[str, ...]:
        """All steps, aliases opened, in canonical order, each once."""
        opened = {step for item in self.items for step in ALIASES.get(item, (item,))}
        return tuple(sorted(opened, key=_ORDER.index))

    def lacks(self, item: str) -> str | None:
        """The step that an item relies on and that neither it nor this recipe holds."""
        known = {*self.steps, *ALIASES.get(item, (item,))}
        needed = (NEEDS[step][0] for step in known if step in NEEDS)
        return next((step for step in needed if step not in known), None)

    def setting(self, step: str, name: str) -> Setting:
        """A setting or its default."""
        return self.settings.get(step, {}).get(name, STEPS[step][name])

    def only(self, items: Sequence[str]) -> Self:
        """The recipe reduced to some of its items."""
        return type(self)(tuple(items), self.settings)


def _position(item: str) -> int:
    """Place of an item: that of the last step it contains that is not a matter of ranges."""
    if item in STEPS:
        return _ORDER.index(item)
    return max((_ORDER.index(step) for step in ALIASES[item]), default=-1)


def _check_together(steps: Sequence[str]) -> None:
    for alternatives, role in ALTERNATIVES:
        named = [step for step in steps if step in alternatives]
        if len(named) > 1:
            raise QuantError(f"recipe: {' and '.join(named)} both {role}; keep one")
    for step in steps:
        needed, reason = NEEDS.get(step, (step, ""))
        if needed not in steps:
            raise QuantError(f"recipe: {reason}; add {needed}")


def _check_setting(step: str, name: str, value: Setting) -> None:
    default = STEPS[step].get(name)
    if default is None:
        takes = ", ".join(STEPS[step]) or "none"
        raise QuantError(f"recipe {step}: no setting {name!r}; it takes {takes}")
    wanted = (int, float) if isinstance(default, float) else (type(default),)
    if not isinstance(value, wanted) or (isinstance(value, bool) and not isinstance(default, bool)):
        raise QuantError(f"recipe {step}.{name}: expected {type(default).__name__}, got {value!r}")
    allowed = ALLOWED[step].get(name)
    if isinstance(allowed, Span) and isinstance(value, int | float) and value not in allowed:
        raise QuantError(f"recipe {step}.{name}: {value!r} is out of range; give {allowed}")
    if isinstance(allowed, tuple) and value not in allowed:
        raise QuantError(f"recipe {step}.{name}: no {value!r}; choose from {', '.join(allowed)}")
