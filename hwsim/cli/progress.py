"""A weighted progress bar on stderr: stages count by the time they usually take."""

import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from hwsim.cli import console

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


@dataclass
class BarProgress:
    """Shows stages on a bar and remembers how long each one took."""

    bar: "Progress | None" = None
    task: "TaskID | None" = None
    seconds: dict[str, float] = field(default_factory=dict[str, float])

    @contextmanager
    def stage(self, name: str, weight: float) -> Generator[None]:
        """Run one stage; ``weight`` is its share of the bar."""
        start = time.perf_counter()
        self.note(name)
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start
        if self.bar is not None and self.task is not None:
            self.bar.advance(self.task, weight)

    def note(self, text: str) -> None:
        """Change the text beside the bar."""
        if self.bar is not None and self.task is not None:
            self.bar.update(self.task, description=text)


@contextmanager
def stage_progress(total: float = 100.0) -> Generator[BarProgress]:
    """A bar on a terminal, silence elsewhere."""
    if not console.shows_progress():
        yield BarProgress()
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console.log(), transient=True) as bar:
        yield BarProgress(bar, bar.add_task("starting", total=total))
