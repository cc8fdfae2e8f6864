"""The compiled tile engine equals its plain-Python oracle on thousands of random layers."""

import numpy as np
import pytest

from hwsim.simulate import columns as col
from hwsim.simulate.cycle_engine import run_jobs
from hwsim.simulate.cycle_reference import run_reference

LAYERS = 2400


def random_case(rng):
    units, lanes_wanted = int(rng.integers(1, 5)), 1
    if units > 1 and rng.random() < 0.3:
        lanes_wanted = units
    count = int(rng.integers(1, 4))
    levels = np.zeros((count, col.LEVEL_COLUMNS))
    levels[:, col.L_RATE] = rng.integers(1, 64, count)
    levels[:, col.L_SHARED] = rng.random(count) < 0.6
    levels[:, col.L_LATENCY] = rng.integers(0, 50, count) * (rng.random() < 0.5)
    steps = int(rng.integers(2, 7))
    jobs = []
    for step in range(steps):
        for lane in range(lanes_wanted):
            members = [lane] if lanes_wanted > 1 else rng.permutation(units)[: rng.integers(1, units + 1)]
            jobs += [random_job(rng, lane, step, int(unit), count) for unit in members]
    jobs.sort(key=lambda job: (job[col.J_UNIT], job[col.J_STEP]))
    table = np.array(jobs)
    first = np.searchsorted(table[:, col.J_UNIT], np.arange(units + 1)).astype(np.int64)
    left = np.zeros((lanes_wanted, steps), np.int64)
    np.add.at(left, (table[:, col.J_LANE].astype(int), table[:, col.J_STEP].astype(int)), 1)
    sync = rng.integers(0, 30, (lanes_wanted, steps)).astype(float)
    return table, first, left, sync, levels, bool(rng.random() < 0.5), steps * lanes_wanted


def random_job(rng, lane, step, unit, count):
    tiles = int(rng.integers(1, 9))
    home = int(rng.integers(0, count))
    moved = rng.integers(0, 400, 3) * (rng.random(3) < 0.8)
    every = rng.integers(1, tiles + 1, 3)
    extra = np.zeros(col.MAX_LEVELS)
    extra[:home] = rng.integers(0, 300, home)
    return [
        lane, step, unit, float(rng.integers(0, 500)), float(rng.integers(0, 20)), home, tiles,
        *moved.astype(float), *every, *extra,
    ]  # fmt: skip


def test_compiled_engine_equals_the_oracle():
    rng = np.random.default_rng(7)
    layers = 0
    while layers < LAYERS:
        jobs, first, left, sync, levels, prefetch, steps = random_case(rng)
        events = np.zeros((len(jobs), col.EVENT_COLUMNS))
        busy = np.zeros(len(levels))
        cycles = run_jobs(
            jobs, first, left.copy(), sync, levels, prefetch, events, np.zeros(left.shape), busy
        )
        expected, expected_events = run_reference(jobs, first, sync, levels, prefetch)
        assert cycles == expected
        np.testing.assert_array_equal(events, expected_events)
        layers += steps


def one_job(compute, moved, tiles, rate):
    levels = np.zeros((2, col.LEVEL_COLUMNS))
    levels[:, col.L_RATE], levels[:, col.L_SHARED] = (1e9, rate), 1
    job = [0, 0, 0, compute, 0, 1, tiles, *moved, 1, 1, 1, *([0.0] * col.MAX_LEVELS)]
    return np.array([job], float), np.array([0, 1]), np.ones((1, 1), np.int64), np.zeros((1, 1)), levels


@pytest.mark.parametrize("tiles", [1, 2, 5, 50])
def test_one_stream_equals_the_closed_form_of_a_pipeline(tiles):
    """Load-bound: all loads, then the last compute. Compute-bound: first load, compute, last store."""
    for compute, moved in ((1e5, (100.0, 50.0, 0.0)), (1.0, (1e6, 5e5, 0.0)), (1e5, (0.0, 100.0, 40.0))):
        jobs, first, left, sync, levels = one_job(compute, moved, tiles, 10.0)
        cycles = run_jobs(
            jobs, first, left, sync, levels, False, np.zeros((1, 4)), np.zeros((1, 1)), np.zeros(2)
        )
        load, store = (moved[0] + moved[1]) / 10, moved[2] / 10
        if compute > load:
            assert cycles == pytest.approx(load / tiles + compute + store / tiles)
        else:
            assert cycles == pytest.approx(load + compute / tiles)
