"""The tile engine in plain Python: the oracle of ``cycle_engine.py``, written from its description alone.

Slow and readable: units are objects that know what they would ask for next, memories are objects that serve
one request at a time. Tests compare the two on random layers, to the last digit.
"""

import itertools
import math
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from hwsim.simulate import columns as col

Request = Literal["store", "weights", "load"]
PRECEDENCE: dict[Request, int] = {"store": 0, "weights": 1, "load": 1}


@dataclass
class Memory:
    """Serves requests in the order in which they are made."""

    rate: float
    latency: float
    free: float = 0.0
    busy: float = 0.0

    def serve(self, time: float, amount: float, first: bool) -> float:
        """When ``amount`` bytes asked for at ``time`` have arrived."""
        begin = max(time, self.free)
        self.free = begin + amount / self.rate
        self.busy += amount / self.rate
        return self.free + (self.latency if first else 0.0)


@dataclass
class Job:
    """One stream of tiles."""

    lane: int
    step: int
    compute: float
    launch: float
    home: int
    tiles: int
    totals: tuple[float, float, float]
    every: tuple[int, int, int]
    extra: list[float]
    row: int
    asked: float = 0.0
    began: float = 0.0
    computed: list[float] = field(default_factory=list)
    stored: list[float] = field(default_factory=list)
    weights_at: float | None = None

    def piece(self, operand: int, tile: int) -> float:
        """Bytes of input (0), weight (1) or output (2) that move with a tile."""
        every = self.every[operand]
        moves = math.ceil(self.tiles / every)
        due = tile % every == 0 if operand < 2 else (tile + 1) % every == 0 or tile + 1 == self.tiles
        return self.totals[operand] / moves if due else 0.0


@dataclass
class Unit:
    """Works through its jobs."""

    jobs: list[Job]
    position: int = 0
    idle_since: float = 0.0
    buffer_free: float = 0.0

    @property
    def job(self) -> Job | None:
        """The current job."""
        return self.jobs[self.position] if self.position < len(self.jobs) else None


class Device:
    """All units, memories and barriers."""

    def __init__(
        self, units: list[Unit], levels: NDArray[np.float64], sync: NDArray[np.float64], prefetch: bool
    ) -> None:
        self.units, self.levels, self.sync, self.prefetch = units, levels, sync, prefetch
        self.memories = [
            [Memory(float(row[col.L_RATE]), float(row[col.L_LATENCY])) for _ in units] for row in levels
        ]
        self.waiting: dict[tuple[int, int], int] = {}
        self.latest: dict[tuple[int, int], float] = {}
        self.step_end: dict[tuple[int, int], float] = {}
        for unit in units:
            for job in unit.jobs:
                key = (job.lane, job.step)
                self.waiting[key] = self.waiting.get(key, 0) + 1

    def run(self) -> float:
        """Serve the earliest request until there is none."""
        while True:
            requests = [
                (time, PRECEDENCE[kind], number, kind)
                for number, unit in enumerate(self.units)
                for time, kind in self._wishes(unit)
            ]
            if not requests:
                return max(self.step_end.values(), default=0.0)
            time, _, number, kind = min(requests)
            getattr(self, f"_{kind}")(number, time)

    def _wishes(self, unit: Unit) -> list[tuple[float, Request]]:
        job = unit.job
        if job is None:
            return []
        wishes: list[tuple[float, Request]] = []
        loaded, stored = len(job.computed), len(job.stored)
        if stored < loaded:
            wishes.append((job.computed[stored], "store"))
        if loaded == 0 and self.prefetch and job.weights_at is None:
            wishes.append((unit.buffer_free, "weights"))
        elif loaded == 0:
            begin = 0.0 if job.step == 0 else self.step_end.get((job.lane, job.step - 1))
            if begin is not None:
                ready = unit.buffer_free if self.prefetch else unit.idle_since
                wishes.append((max(begin, ready) + job.launch, "load"))
        elif loaded == 1 < job.tiles:
            wishes.append((job.computed[0] - job.compute / job.tiles, "load"))
        elif loaded < job.tiles:
            wishes.append((job.computed[loaded - 2], "load"))
        return wishes

    def _move(self, number: int, time: float, amounts: list[float], first: bool) -> float:
        ends = [time]
        for level, amount in enumerate(amounts):
            if amount > 0:
                owner = 0 if self.levels[level, col.L_SHARED] > 0 else number
                ends.append(self.memories[level][owner].serve(time, amount, first))
        return max(ends)

    def _amounts(self, job: Job, at_home: float, spread: bool) -> list[float]:
        amounts = [extra / job.tiles if spread else 0.0 for extra in job.extra[: len(self.memories)]]
        amounts[job.home] += at_home
        return amounts

    def _weights(self, number: int, time: float) -> None:
        job = self.units[number].job
        assert job is not None
        job.asked = time
        job.weights_at = self._move(number, time, self._amounts(job, job.piece(1, 0), False), True)

    def _load(self, number: int, time: float) -> None:
        unit = self.units[number]
        job = unit.job
        assert job is not None
        tile = len(job.computed)
        fetched = job.weights_at if tile == 0 else None
        if tile == 0 and fetched is None:
            job.asked = time
        at_home = job.piece(0, tile) + (0.0 if fetched is not None else job.piece(1, tile))
        arrived = self._move(number, time, self._amounts(job, at_home, True), tile == 0)
        begin = max(arrived, fetched or 0.0, job.computed[-1] if tile else unit.idle_since)
        if tile >= 2:
            begin = max(begin, job.stored[tile - 2])
        if tile == 0:
            job.began = begin
        job.computed.append(begin + job.compute / job.tiles)

    def _store(self, number: int, time: float) -> None:
        unit = self.units[number]
        job = unit.job
        assert job is not None
        tile = len(job.stored)
        job.stored.append(self._move(number, time, self._amounts(job, job.piece(2, tile), False), False))
        if len(job.stored) < job.tiles:
            return
        unit.idle_since = job.stored[-1]
        unit.buffer_free = job.computed[-2] if job.tiles > 1 else job.began
        unit.position += 1
        key = (job.lane, job.step)
        self.latest[key] = max(self.latest.get(key, 0.0), job.stored[-1])
        self.waiting[key] -= 1
        if self.waiting[key] == 0:
            self.step_end[key] = self.latest[key] + float(self.sync[key])


def run_reference(
    jobs: NDArray[np.float64],
    first_job: NDArray[np.int64],
    step_sync: NDArray[np.float64],
    levels: NDArray[np.float64],
    prefetch: bool,
) -> tuple[float, NDArray[np.float64]]:
    """Last cycle, and the events of each job as the compiled engine reports them."""
    made = [_job(row, index) for index, row in enumerate(jobs.tolist())]
    units = [Unit(made[first:last]) for first, last in itertools.pairwise(first_job)]
    cycles = Device(units, levels, step_sync, prefetch).run()
    events = np.zeros((len(made), col.EVENT_COLUMNS))
    for job in made:
        events[job.row] = (job.asked, job.began, job.computed[-1], job.stored[-1])
    return cycles, events


def _job(row: list[float], index: int) -> Job:
    return Job(
        lane=int(row[col.J_LANE]),
        step=int(row[col.J_STEP]),
        compute=row[col.J_COMPUTE],
        launch=row[col.J_LAUNCH],
        home=int(row[col.J_HOME]),
        tiles=int(row[col.J_TILES]),
        totals=(row[col.J_INPUT], row[col.J_WEIGHT], row[col.J_OUTPUT]),
        every=(int(row[col.J_INPUT_EVERY]), int(row[col.J_WEIGHT_EVERY]), int(row[col.J_OUTPUT_EVERY])),
        extra=row[col.J_EXTRA :],
        row=index,
    )
