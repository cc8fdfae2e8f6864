"""Interleaved timing: every candidate once a round, medians over rounds, CPU time where one thread is used."""

import statistics
import time


def interleaved(
    candidates,
    rounds=40,
    clock=time.process_time,
    warmup=3,
    inner=None,
    statistic=statistics.median,
    pause=0.0,
):
    """Median (or other statistic) seconds of one call for each candidate; ``inner`` calls are timed together.

    ``pause`` seconds go by before each: thread pools spin for a while after their last task, on cores that the next
    candidate needs.
    """
    for call in candidates.values():
        for _ in range(warmup):
            call()
    if inner is None:
        inner = {}
        for name, call in candidates.items():
            start = time.perf_counter()
            call()
            inner[name] = max(1, int(2e-3 / max(time.perf_counter() - start, 1e-7)))
    times = {name: [] for name in candidates}
    for _ in range(rounds):
        for name, call in candidates.items():
            time.sleep(pause)
            start = clock()
            for _ in range(inner[name]):
                call()
            times[name].append((clock() - start) / inner[name])
    return {name: statistic(values) for name, values in times.items()}


def table(header, rows):
    """Markdown table."""
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return "\n".join(lines + ["| " + " | ".join(map(str, row)) + " |" for row in rows]) + "\n"
