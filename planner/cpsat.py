"""From a space to CP-SAT: rows with integers of any size, kept exact by cutting them into digits.

CP-SAT computes in 64 bits; errors that span 12 decades and carry 17 digits do not fit. A row whose sum needs
more than ``DIGIT_BITS`` bits is cut at bit ``s``: ``c = (c >> s)·2^s + (c mod 2^s)``.

* *Relaxed*: ``Σ (c >> s) ≤ limit >> s`` holds for every plan that meets the limit, and for some just above.
* *Exact*: digits from the lowest up, with an integer carry that is at least what the lower digits overflow:
  ``Σ digit_j + carry_(j+1) − limit_j ≤ 2^Δ·carry_j``, and without a carry out of the highest digit.
"""

import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from ortools.sat.python import cp_model

from planner.control import Control
from planner.entries import ExactTables
from planner.limits import to_float
from planner.space import Choice, Row, Space

DIGIT_BITS = 44


@dataclass(frozen=True, slots=True)
class Answer:
    """What one run of CP-SAT says; ``bound`` is proven for the model's objective, also when stopped."""

    status: str
    choice: Choice | None
    bound: int


def weighted(
    variables: Sequence[cp_model.IntVar], row: Row, shift: int = 0, top: int | None = None
) -> cp_model.LinearExpr:
    """``Σ digit·variable`` of a row: its coefficients' bits from ``shift`` up to below ``top``."""
    mask = -1 if top is None else (1 << (top - shift)) - 1
    digits = [(coefficient >> shift) & mask for coefficient in row.coefficients]
    return cp_model.LinearExpr.weighted_sum([variables[index] for index in row.variables], digits)


class Model:
    """A CP-SAT model of a space."""

    def __init__(self, space: Space) -> None:
        self.space = space
        self.model = cp_model.CpModel()
        self.variables = [self.model.new_bool_var("") for _ in range(space.count)]
        for own in space.x:
            self.model.add_exactly_one([self.variables[index] for index in own])
        for equality in space.equalities:
            if equality.right:
                indices = [*equality.left, *equality.right]
                signs = [1] * len(equality.left) + [-1] * len(equality.right)
                chosen = [self.variables[index] for index in indices]
                self.model.add(cp_model.LinearExpr.weighted_sum(chosen, signs) == equality.total)
            elif equality.total == 0:
                for index in equality.left:
                    self.model.add(self.variables[index] == 0)

    def limit(self, row: Row, value: int, exact: bool) -> None:
        """Demand ``row ≤ value``; relaxed by less than one part in 2^34 unless ``exact``."""
        room = value - row.constant
        if room < 0:
            self.model.add_bool_or([])
            return
        if row.reach <= room:
            return
        row = self.trimmed(row, room)
        shift = max(0, row.reach.bit_length() - DIGIT_BITS)
        if shift == 0 or not exact:
            self.model.add(weighted(self.variables, row, shift) <= room >> shift)
            return
        carry: cp_model.LinearExpr | int = 0
        low = 0
        while True:
            high = low + DIGIT_BITS - 10
            last = row.reach.bit_length() <= high
            digit = weighted(self.variables, row, low, None if last else high)
            if last:
                self.model.add(digit + carry <= room >> low)
                return
            out = self.model.new_int_var(-1, len(row.variables) + 1, "")
            mask = (1 << (high - low)) - 1
            self.model.add(digit + carry - ((room >> low) & mask) <= (1 << (high - low)) * out)
            carry, low = out, high

    def trimmed(self, row: Row, room: int) -> Row:
        """The row without the variables that alone exceed ``room``; those are forbidden."""
        if max(row.coefficients, default=0) <= room:
            return row
        kept = Row(row.constant, reach=min(row.reach, row.choices * room), choices=row.choices)
        for index, coefficient in zip(row.variables, row.coefficients, strict=True):
            if coefficient <= room:
                kept.variables.append(index)
                kept.coefficients.append(coefficient)
            else:
                self.model.add(self.variables[index] == 0)
        return kept

    def at_most(self, indices: Sequence[int], most: int) -> None:
        """At most ``most`` of these variables are 1."""
        self.model.add(cp_model.LinearExpr.sum([self.variables[index] for index in indices]) <= most)

    def ordered_networks(self) -> None:
        """Expanded networks are interchangeable: demand that their loads do not rise."""
        rows = self.space.rows("latency")
        for one, other in pairwise(rows):
            self.model.add(weighted(self.variables, one) >= weighted(self.variables, other))

    def minimise_largest(self, rows: Sequence[Row], least: int) -> None:
        """Minimise the largest of several rows."""
        most = max(row.constant + row.reach for row in rows)
        largest = self.model.new_int_var(min(least, most), most, "")
        for row in rows:
            self.model.add(weighted(self.variables, row) + row.constant <= largest)
        self.model.minimize(largest)

    def hint(self, chosen: Sequence[int]) -> None:
        """Start the search from a plan."""
        for variable, value in zip(self.variables, chosen, strict=True):
            self.model.add_hint(variable, value)

    def read(self, solver: cp_model.CpSolver) -> Choice:
        """The plan that the solver found."""
        space = self.space
        entries: list[int] = []
        holders: list[tuple[int, ...]] = []
        for own, spread in zip(space.x, space.z, strict=True):
            entry = next(e for e, index in enumerate(own) if solver.boolean_value(self.variables[index]))
            entries.append(entry)
            holders.append(
                tuple(
                    next(m for m, index in enumerate(term) if solver.boolean_value(self.variables[index]))
                    for term in spread[entry]
                )
            )
        return Choice(tuple(entries), tuple(holders))

    def run(self, control: Control, tell: "Tell | None" = None, gap: float = 0.0) -> Answer:
        """Solve until within ``gap``, out of time, or stopped; a search that is ended keeps its best plan."""
        solver = cp_model.CpSolver()
        solver.parameters.num_workers = control.workers
        solver.parameters.random_seed = control.seed
        solver.parameters.max_time_in_seconds = max(0.001, control.left)
        solver.parameters.catch_sigint_signal = False
        solver.parameters.relative_gap_limit = gap
        watcher = None
        if tell is not None and control.progress is not None:
            watcher = _Watcher(tell)
            solver.best_bound_callback = watcher.on_bound
        status = _solve_interruptibly(solver, self.model, watcher, control)
        stats = control.stats
        stats.solves += 1
        stats.solver_seconds += solver.wall_time
        stats.branches += solver.num_branches
        stats.conflicts += solver.num_conflicts
        stats.deterministic_time += solver.response_proto.deterministic_time
        name = solver.status_name(status).lower()
        if name not in ("optimal", "feasible"):
            return Answer(name, None, 0)
        bound = solver.best_objective_bound if self.model.has_objective() else 0.0
        return Answer(name, self.read(solver), math.ceil(bound - 1e-6 - abs(bound) * 2.0**-50))


class Tell:
    """Turns the solver's integers into what a progress bar shows."""

    def __init__(self, control: Control, exact: ExactTables, quantity: str, factor: int, offset: int) -> None:
        self.control = control
        self.offset = to_float(exact, quantity, offset)
        self.factor = to_float(exact, quantity, factor)

    def __call__(self, value: float | None, bound: float | None) -> None:
        """Report a value and a bound of the running model."""
        shown = [None if part is None else part * self.factor + self.offset for part in (value, bound)]
        self.control.tell(*shown)


class _Watcher(cp_model.CpSolverSolutionCallback):
    def __init__(self, tell: Tell) -> None:
        super().__init__()
        self._tell = tell
        self._value: float | None = None

    def on_solution_callback(self) -> None:
        self._value = self.objective_value
        self._tell(self._value, self.best_objective_bound)

    def on_bound(self, bound: float) -> None:
        self._tell(self._value, bound)


def _solve_interruptibly(
    solver: cp_model.CpSolver, model: cp_model.CpModel, watcher: _Watcher | None, control: Control
) -> cp_model.CpSolverStatus:
    """Solve in a thread of its own, so that the caller's thread hears Ctrl-C and outside stops."""
    done = threading.Event()
    found: list[cp_model.CpSolverStatus] = []

    def work() -> None:
        try:
            found.append(solver.solve(model, watcher))
        finally:
            done.set()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        while not done.wait(0.05):
            if control.ended:
                solver.stop_search()
    except BaseException:
        solver.stop_search()
        raise
    finally:
        thread.join()
    return found[0] if found else cp_model.UNKNOWN
