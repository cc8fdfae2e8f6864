"""Stages of a run without a display: how long each one took is remembered."""

import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass
class Silent:
    """What a run reports to when nobody watches; displays build on it."""

    seconds: dict[str, float] = field(default_factory=dict[str, float])

    @contextmanager
    def stage(self, name: str, weight: float) -> Generator[None]:
        """Run one stage; ``weight`` is its share of the bar."""
        start = time.perf_counter()
        self.begin(name, weight)
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start
        self.end(weight)

    def begin(self, name: str, weight: float) -> None:
        """A stage starts."""

    def end(self, weight: float) -> None:
        """A stage is over."""

    def note(self, text: str) -> None:
        """Change the text beside the bar."""
