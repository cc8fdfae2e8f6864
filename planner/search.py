"""Minimise one quantity over a space, proven in exact arithmetic although CP-SAT counts in 64 bits.

With coefficients cut at bit ``s``, ``P_s = Σ (c >> s)`` is an integer that CP-SAT minimises exactly: Z_s. A
plan then costs at least ``Z_s·2^s``, and a plan better than the best known cost N has
``Z_s ≤ P_s ≤ N >> s``. When ``Z_s·2^s < N`` still leaves room for a better plan, the next lower digits are
added: ``P_t = P_s·2^(s−t) + Σ digits``, minimised with ``P_s`` confined to that short window. The window is a
few units wide, so the numbers stay small; at ``s = 0`` nothing is cut and the proof is exact. Limits are
treated likewise: first relaxed, and cut exactly when a plan found breaks one by less than the cut.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from ortools.sat.python import cp_model

from planner.control import Control
from planner.cpsat import DIGIT_BITS, Answer, Model, Tell, weighted
from planner.limits import Limit
from planner.space import Choice, Row, Space

Cuts = Callable[[Space], list[tuple[list[int], int]]]
_STEP = DIGIT_BITS - 10
COARSE_GAP = 2e-4


@dataclass(frozen=True, slots=True)
class Outcome:
    """The best plan found and the proven lower bound; ``optimal`` when they meet."""

    status: Literal["optimal", "feasible", "infeasible", "unknown"]
    choice: Choice | None = None
    value: int | None = None
    bound: int = 0


@dataclass(frozen=True, slots=True)
class Problem:
    """Minimise ``quantity`` over ``space`` inside ``limits`` and ``cuts``; ``None`` asks for any plan."""

    space: Space
    quantity: str | None
    limits: tuple[Limit, ...]
    cuts: tuple[tuple[tuple[int, ...], int], ...] = ()

    def broken(self, chosen: Sequence[int]) -> list[Limit]:
        """Limits that a 0/1 assignment breaks."""
        return [limit for limit in self.limits if self.space.value(limit.quantity, chosen) > limit.value]

    def admits(self, chosen: Sequence[int]) -> bool:
        """Whether an assignment meets limits and cuts."""
        if any(sum(chosen[index] for index in indices) > most for indices, most in self.cuts):
            return False
        return not self.broken(chosen)


class Search:
    """The rounds of one exact minimisation; ``coarse`` only wants a good plan, its bound proves nothing."""

    def __init__(
        self, problem: Problem, control: Control, start: Choice | None, least: int, coarse: bool = False
    ) -> None:
        self.problem = problem
        self.space = problem.space
        self.control = control
        self.exact_limits: set[str] = set()
        self.best: Choice | None = None
        self.chosen: list[int] = []
        self.value: int | None = None
        self.bound = least
        self.coarse = coarse
        self.prefix: list[tuple[int, int]] = []
        if start is not None:
            self._keep(start)

    def _keep(self, choice: Choice) -> bool:
        chosen = self.space.assignment(choice)
        if not self.problem.admits(chosen):
            return False
        quantity = self.problem.quantity
        value = 0 if quantity is None else self.space.value(quantity, chosen)
        if self.value is None or value < self.value:
            self.best, self.chosen, self.value = choice, chosen, value
        return True

    def _model(self) -> Model:
        model = Model(self.space)
        for limit in self.problem.limits:
            for row in self.space.rows(limit.quantity):
                model.limit(row, limit.value, exact=limit.name in self.exact_limits)
        for indices, most in self.problem.cuts:
            model.at_most(indices, most)
        if self.space.networks > 1:
            model.ordered_networks()
        if self.best is not None:
            model.hint(self.chosen)
        return model

    def run(self) -> Outcome:
        """All rounds."""
        if self.problem.quantity is None:
            return self._any()
        rows = self.space.rows(self.problem.quantity)
        return self._many(rows) if len(rows) > 1 else self._one(rows[0])

    def _accept(self, answer: Answer) -> bool:
        """Keep the round's plan if it meets all limits exactly; else make the broken limits exact."""
        if answer.choice is None:
            return False
        if self._keep(answer.choice):
            return True
        broken = self.problem.broken(self.space.assignment(answer.choice))
        fresh = {limit.name for limit in broken} - self.exact_limits
        assert fresh, f"exact limits {self.exact_limits} were broken by the solver's plan"
        self.exact_limits |= fresh
        return False

    def _outcome(self) -> Outcome:
        if self.value is None:
            return Outcome("unknown", bound=self.bound)
        status = "optimal" if self.bound >= self.value else "feasible"
        return Outcome(status, self.best, self.value, min(self.bound, self.value))

    def _closed(self) -> bool:
        return self.value is not None and self.bound >= self.value

    def _any(self) -> Outcome:
        while self.best is None and not self.control.stopped:
            answer = self._model().run(self.control)
            if answer.status == "infeasible":
                return Outcome("infeasible")
            if answer.choice is None:
                break
            self._accept(answer)
        return self._outcome()

    def _many(self, rows: Sequence[Row]) -> Outcome:
        while not self._closed() and not self.control.stopped:
            model = self._model()
            model.minimise_largest(rows, self.bound)
            answer = model.run(self.control, self._tell(1, 0))
            if answer.status == "infeasible":
                return self._none_better()
            accepted = self._accept(answer)
            if answer.status == "optimal" and accepted:
                self.bound = max(self.bound, self.value or 0)
            elif answer.choice is not None:
                self.bound = max(self.bound, answer.bound)
            if answer.status != "optimal":
                break
        return self._outcome()

    def _none_better(self) -> Outcome:
        if self.value is None:
            return Outcome("infeasible")
        self.bound = self.value
        return self._outcome()

    def _one(self, row: Row) -> Outcome:
        shift = self._first_shift(row)
        while not self._closed() and not self.control.stopped:
            model = self._model()
            objective, offset = self._digits(model, row, shift)
            model.model.minimize(objective)
            tell = self._tell(1 << shift, (offset << shift) + row.constant)
            answer = model.run(self.control, tell, COARSE_GAP if self.coarse else 0.0)
            if answer.status == "infeasible":
                return self._none_better()
            if answer.choice is None:
                break
            accepted = self._accept(answer)
            low = offset + answer.bound
            if answer.status == "optimal" and accepted:
                low = _cut_sum(row, self.space.assignment(answer.choice), shift)
            self.bound = max(self.bound, (low << shift) + row.constant)
            if answer.status != "optimal" or (accepted and self.coarse):
                break
            if accepted and not self._closed():
                shift = self._next_shift(row, shift, low)
        return self._outcome()

    def _first_shift(self, row: Row) -> int:
        most = row.reach if self.value is None else min(row.reach, self.value - row.constant)
        return max(0, most.bit_length() - DIGIT_BITS)

    def _next_shift(self, row: Row, shift: int, low: int) -> int:
        first = self._first_shift(row)
        if first < shift and not self.prefix:
            return first
        self.prefix.append((shift, low))
        return max(0, shift - _STEP)

    def _digits(self, model: Model, row: Row, shift: int) -> tuple[cp_model.LinearExprT, int]:
        """The sum of the coefficients cut at ``shift``, as an offset plus a small expression."""
        if self.value is not None:
            row = model.trimmed(row, self.value - row.constant)
        top: int | None = None
        above: cp_model.LinearExprT = 0
        offset = 0
        for cut, low in self.prefix:
            window = model.model.new_int_var(0, self._ceiling(row, cut) - low, "")
            digit = weighted(model.variables, row, cut, top)
            scale = 0 if top is None else 1 << (top - cut)
            model.model.add(digit + scale * above == window + (low - scale * offset))
            above, offset, top = window, low, cut
        digit = weighted(model.variables, row, shift, top)
        if top is None:
            return digit, 0
        scale = 1 << (top - shift)
        return digit + scale * above, scale * offset

    def _ceiling(self, row: Row, cut: int) -> int:
        assert self.value is not None
        return (self.value - row.constant) >> cut

    def _tell(self, factor: int, offset: int) -> Tell:
        assert self.problem.quantity is not None
        return Tell(self.control, self.space.exact, self.problem.quantity, factor, offset)


def _cut_sum(row: Row, chosen: Sequence[int], shift: int) -> int:
    pairs = zip(row.variables, row.coefficients, strict=True)
    return sum(coefficient >> shift for index, coefficient in pairs if chosen[index])
