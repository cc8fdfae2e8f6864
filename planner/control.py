"""How a search is watched and ended: clock, outside stop, Ctrl-C, progress; and what it cost."""

import signal
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Literal


@dataclass(frozen=True, slots=True)
class Progress:
    """One step of a running search, in the unit of the first objective."""

    phase: str
    seconds: float
    value: float | None
    bound: float | None

    @property
    def gap(self) -> float | None:
        """Relative distance between the best plan and the proven bound."""
        if self.value is None or self.bound is None:
            return None
        return (self.value - self.bound) / self.value if self.value > 0 else 0.0


ProgressCallback = Callable[[Progress], None]


@dataclass(slots=True)
class SolveStats:
    """What the search cost. Kept out of the plan so that equal requests give equal plans."""

    seconds: float = 0.0
    solver_seconds: float = 0.0
    solves: int = 0
    branches: int = 0
    conflicts: int = 0
    deterministic_time: float = 0.0
    phases: dict[str, float] = field(default_factory=dict[str, float])


@dataclass(slots=True)
class Control:
    """Shared by all solves of one request."""

    seed: int = 0
    workers: int = 1
    time_limit: float = 60.0
    stop: threading.Event | None = None
    progress: ProgressCallback | None = None
    stats: SolveStats = field(default_factory=SolveStats)
    started: float = field(default_factory=time.monotonic)
    interrupted: bool = False
    by_hand: bool = False
    phase: str = "solve"

    @property
    def elapsed(self) -> float:
        """Seconds since the request started."""
        return time.monotonic() - self.started

    @property
    def left(self) -> float:
        """Seconds left of the time limit; 0 once interrupted."""
        if self.ended:
            return 0.0
        return max(0.0, self.time_limit - self.elapsed)

    @property
    def ended(self) -> bool:
        """Whether someone asked to stop."""
        if self.stop is not None and self.stop.is_set():
            self.interrupted = True
        return self.interrupted

    @property
    def stopped(self) -> Literal["time_limit", "interrupted"] | None:
        """Why the search must end now, if it must."""
        if self.ended:
            return "interrupted"
        return "time_limit" if self.left <= 0 else None

    @contextmanager
    def listening(self) -> Generator[None]:
        """While solving, Ctrl-C asks for the best plan so far; a second one ends at once as usual."""
        usual = signal.getsignal(signal.SIGINT)
        here = threading.current_thread() is threading.main_thread()
        if not here or usual is not signal.default_int_handler:
            yield
            return
        signal.signal(signal.SIGINT, self._interrupt)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, usual)

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        if self.by_hand:
            signal.default_int_handler(number, frame)
        self.interrupted = self.by_hand = True

    def tell(self, value: float | None, bound: float | None) -> None:
        """Report one step to whoever watches."""
        if self.progress is not None:
            self.progress(Progress(self.phase, self.elapsed, value, bound))
