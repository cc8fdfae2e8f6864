"""The tile-by-tile engine: units, double buffers and shared memories in time, compiled.

Each *unit* works through its *jobs*: streams of tiles. A tile is loaded while the one before it computes and
the one before that is stored. Every load and store asks each memory it crosses for its bytes; a memory serves
requests one at a time, in the order of their times (the lower unit first on a tie, stores before loads). A
*lane* is a chain of steps with a barrier after each: one lane for a plain plan, one for each predictor of an
ensemble. The weights of a job's first tile may be fetched before its step begins (``prefetch``); its inputs may
not. ``cycle_reference.py`` says the same in plain Python.
"""

import numpy as np
from numpy.typing import NDArray

from hwsim.simulate import columns as col
from quant.jit import jit

NEVER = 1e300


@jit
def _transfer(
    time: float, amounts: NDArray[np.float64], unit: int, levels: NDArray[np.float64], free: NDArray[np.float64],
    busy: NDArray[np.float64], first: bool,
) -> float:  # fmt: skip
    """Serve one request on every memory it crosses; returns when the last of them is through.

    Latency is paid by the ``first`` request of a stream; later ones are asked for ahead.
    """
    end = time
    for level in range(levels.shape[0]):
        if amounts[level] <= 0:
            continue
        owner = 0 if levels[level, col.L_SHARED] > 0 else unit
        start = max(time, free[level, owner])
        cycles = amounts[level] / levels[level, col.L_RATE]
        free[level, owner] = start + cycles
        busy[level] += cycles
        latency = levels[level, col.L_LATENCY] if first else 0.0
        end = max(end, start + cycles + latency)
    return end


@jit
def _share(total: float, tiles: float, every: float, tile: int) -> float:
    """Bytes that move with this tile: an equal part of the total every so-many tiles."""
    if total <= 0 or tile % int(every) != 0:
        return 0.0
    return total / np.ceil(tiles / every)


@jit
def run_jobs(
    jobs: NDArray[np.float64],
    first_job: NDArray[np.int64],
    jobs_left: NDArray[np.int64],
    step_sync: NDArray[np.float64],
    levels: NDArray[np.float64],
    prefetch: bool,
    events: NDArray[np.float64],
    step_end: NDArray[np.float64],
    busy: NDArray[np.float64],
) -> float:
    """Run all jobs; returns the last cycle.

    ``jobs`` is sorted by unit and step, ``first_job[u] : first_job[u + 1]`` are those of unit ``u``;
    ``jobs_left[lane, step]`` counts the jobs of a step and is used up; ``step_end[lane, step]`` is filled.
    """
    units, count = len(first_job) - 1, levels.shape[0]
    free = np.zeros((count, units))
    current = first_job[:-1].copy()
    loaded = np.zeros(units, np.int64)
    stored = np.zeros(units, np.int64)
    fetched = np.zeros(units, np.bool_)  # weights of the first tile are on their way
    arrival = np.zeros(units)  # when those weights are there
    compute_end = np.zeros((units, 2))
    store_end = np.zeros((units, 2))
    unit_free = np.zeros(units)
    slot = np.zeros(units)  # when a buffer becomes free for the next job's first tile
    amounts = np.zeros(count)
    latest = np.zeros(step_end.shape)
    step_end[:] = -1.0
    last = 0.0
    # What each unit asks for next changes only when it is served or when a step ends.
    due_time, due_store = np.full(units, NEVER), np.zeros(units, np.bool_)
    working = np.flatnonzero(first_job[1:] > first_job[:-1])
    served, step_ended = -1, True
    while True:
        best_time, best_unit, best_store = NEVER, -1, False
        for each in working:
            unit = int(each)
            if step_ended or unit == served:
                due_time[unit], due_store[unit] = NEVER, False
                if current[unit] < first_job[unit + 1]:
                    job = jobs[current[unit]]
                    if stored[unit] < loaded[unit]:
                        due_time[unit], due_store[unit] = compute_end[unit, stored[unit] % 2], True
                    if loaded[unit] < int(job[col.J_TILES]):
                        time = _load_time(
                            job, unit, loaded[unit], fetched[unit], prefetch, slot, compute_end, step_end,
                            unit_free,
                        )  # fmt: skip
                        if time < due_time[unit]:
                            due_time[unit], due_store[unit] = time, False
            time = due_time[unit]
            if time < best_time or (time == best_time and due_store[unit] and not best_store):
                best_time, best_unit, best_store = time, unit, due_store[unit]
        if best_unit < 0:
            return last
        served, step_ended = best_unit, False
        unit, index = best_unit, current[best_unit]
        job = jobs[index]
        tiles, home = job[col.J_TILES], int(job[col.J_HOME])
        amounts[:] = 0.0
        if best_store:
            tile = stored[unit]
            due = (tile + 1) % int(job[col.J_OUTPUT_EVERY]) == 0 or tile + 1 == int(tiles)
            if due:
                amounts[home] = job[col.J_OUTPUT] / np.ceil(tiles / job[col.J_OUTPUT_EVERY])
            store_end[unit, tile % 2] = _transfer(best_time, amounts, unit, levels, free, busy, False)
            stored[unit] += 1
            if stored[unit] == int(tiles):
                done = store_end[unit, tile % 2]
                events[index, col.X_DONE] = done
                last = max(last, _finish(job, done, jobs_left, step_sync, step_end, latest))
                step_ended = jobs_left[int(job[col.J_LANE]), int(job[col.J_STEP])] == 0
                unit_free[unit] = store_end[unit, tile % 2]
                slot[unit] = compute_end[unit, (tile + 1) % 2] if tile > 0 else events[index, col.X_START]
                current[unit] += 1
                loaded[unit], stored[unit], fetched[unit] = 0, 0, False
            continue
        tile = loaded[unit]
        if tile == 0 and prefetch and not fetched[unit]:
            amounts[home] = _share(job[col.J_WEIGHT], tiles, job[col.J_WEIGHT_EVERY], 0)
            arrival[unit] = _transfer(best_time, amounts, unit, levels, free, busy, True)
            fetched[unit] = True
            events[index, col.X_REQUEST] = best_time
            continue
        amounts[home] = _share(job[col.J_INPUT], tiles, job[col.J_INPUT_EVERY], tile)
        ready = 0.0
        if tile == 0 and prefetch:
            ready = arrival[unit]
        else:
            amounts[home] += _share(job[col.J_WEIGHT], tiles, job[col.J_WEIGHT_EVERY], tile)
            if tile == 0:
                events[index, col.X_REQUEST] = best_time
        for level in range(count):
            amounts[level] += job[col.J_EXTRA + level] / tiles
        ready = max(ready, _transfer(best_time, amounts, unit, levels, free, busy, tile == 0))
        start = max(ready, compute_end[unit, (tile + 1) % 2] if tile > 0 else unit_free[unit])
        if tile > 1:
            start = max(start, store_end[unit, tile % 2])
        if tile == 0:
            events[index, col.X_START] = start
        compute_end[unit, tile % 2] = start + job[col.J_COMPUTE] / tiles
        events[index, col.X_COMPUTED] = compute_end[unit, tile % 2]
        loaded[unit] += 1


@jit
def _load_time(
    job: NDArray[np.float64], unit: int, tile: int, fetched: bool, prefetch: bool, slot: NDArray[np.float64],
    compute_end: NDArray[np.float64], step_end: NDArray[np.float64], unit_free: NDArray[np.float64],
) -> float:  # fmt: skip
    """When the next load may be asked for; NEVER while the step before is still running elsewhere."""
    if tile == 0 and prefetch and not fetched:
        return slot[unit]
    if tile == 0:
        step = int(job[col.J_STEP])
        begin = 0.0 if step == 0 else step_end[int(job[col.J_LANE]), step - 1]
        if begin < 0:
            return NEVER
        return max(begin, unit_free[unit] if not prefetch else slot[unit]) + job[col.J_LAUNCH]
    if tile == 1:
        return compute_end[unit, 0] - job[col.J_COMPUTE] / job[col.J_TILES]
    return compute_end[unit, tile % 2]


@jit
def _finish(
    job: NDArray[np.float64], time: float, jobs_left: NDArray[np.int64], step_sync: NDArray[np.float64],
    step_end: NDArray[np.float64], latest: NDArray[np.float64],
) -> float:  # fmt: skip
    """Note that a job is done at ``time``; the last job of a step ends it, after the barrier."""
    lane, step = int(job[col.J_LANE]), int(job[col.J_STEP])
    latest[lane, step] = max(latest[lane, step], time)
    jobs_left[lane, step] -= 1
    if jobs_left[lane, step] == 0:
        step_end[lane, step] = latest[lane, step] + step_sync[lane, step]
        return step_end[lane, step]
    return time
