"""A progress bar on stderr, shared out by the time the stages should take, with the time that is left.

Inside a stage the bar moves with the clock and waits shortly before the stage's end; the time left is scaled by
how the stages so far kept to their estimates.
"""

import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from hwsim.cli import console
from hwsim.stages.progress import Silent

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

_MOST = 0.95  # of a stage's share that the clock alone may fill


@dataclass
class Estimate:
    """Where a run stands between its expected stages."""

    clock: Callable[[], float] = time.monotonic
    expected: dict[str, float] = field(default_factory=dict[str, float])
    done: set[str] = field(default_factory=set[str])
    current: str = ""
    started: float = 0.0
    begun: float = 0.0
    reached: float | None = None

    def __post_init__(self) -> None:
        self.started = self.begun = self.clock()

    def begin(self, name: str) -> None:
        """The stage before is over; this one runs."""
        if self.current:
            self.done.add(self.current)
        self.current, self.begun, self.reached = name, self.clock(), None

    def reach(self, name: str, share: float) -> None:
        """This much of a stage is done, as the stage itself counts it."""
        if name != self.current:
            self.begin(name)
        self.expected.setdefault(name, 1.0)
        self.reached = share

    def share(self) -> float:
        """Share of the expected time that lies behind, between 0 and 1."""
        total = sum(self.expected.values())
        if total <= 0:
            return 0.0
        behind = sum(seconds for name, seconds in self.expected.items() if name in self.done)
        own = self.expected.get(self.current, 0.0) if self.current not in self.done else 0.0
        inside = min(self.clock() - self.begun, _MOST * own) if self.reached is None else self.reached * own
        return (behind + inside) / total

    def left(self) -> float | None:
        """Seconds to go, at the pace so far; none before there is a pace."""
        share = self.share()
        return (self.clock() - self.started) * (1 - share) / share if share > 0.02 else None


@dataclass
class BarProgress(Silent):
    """Shows the stages on a bar."""

    bar: "Progress | None" = None
    task: "TaskID | None" = None
    estimate: Estimate = field(default_factory=Estimate)

    def expect(self, seconds: Mapping[str, float]) -> None:
        """Share out the bar."""
        self.estimate.expected = dict(seconds)

    def begin(self, name: str) -> None:
        """Name the stage."""
        self.estimate.begin(name)
        self.note(name)

    def reach(self, phase: str, detail: str, share: float) -> None:
        """A stage counts its own steps: it is at ``detail``, and ``share`` of it is done."""
        self.estimate.reach(phase, share)
        self.note(f"{phase}, {detail}")

    def note(self, text: str) -> None:
        """Change the text beside the bar."""
        if self.bar is not None and self.task is not None:
            self.bar.update(self.task, description=text)


@contextmanager
def stage_progress() -> Generator[BarProgress]:
    """A bar on a terminal, silence elsewhere."""
    if not console.shows_progress():
        yield BarProgress()
        return
    from rich.progress import BarColumn, Progress, Task, TextColumn, TimeElapsedColumn
    from rich.text import Text

    shown = BarProgress()

    class Bar(BarColumn):
        """Filled by the estimate, not by steps."""

        def render(self, task: Task) -> "object":  # pyright: ignore[reportIncompatibleMethodOverride]
            task.completed = 100 * shown.estimate.share()
            return super().render(task)

    class Left(TextColumn):
        """The time to go."""

        def render(self, task: Task) -> Text:
            seconds = shown.estimate.left()
            return Text("" if seconds is None else f"about {max(1.0, seconds):.0f} s left", style="dim")

    columns = (TextColumn("{task.description}"), Bar(), TimeElapsedColumn(), Left(""))
    with Progress(*columns, console=console.log(), transient=True) as bar:
        shown.bar, shown.task = bar, bar.add_task("starting", total=100)
        yield shown
