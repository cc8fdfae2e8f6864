"""What a class says of a new device: the fit against its objective written out, and devices drawn from the model."""

import math

import numpy as np
import pytest

from hwsim.simulate import class_prior
from hwsim.simulate.calibration import workload_of
from hwsim.simulate.class_prior import COUNT, PARTS, Measured, Parts, Trust, learn, parts_of
from quant.scheme import Scheme
from tests.hwsim.simulate.fake_graph import cpu, network

TRUST = Trust(1.0, 0.05)
FLOAT, W8A8 = Scheme(None, None), Scheme(8, 8)


def load(name, seed):
    """A made-up workload: each of the eight parts takes a random share."""
    both = np.zeros(COUNT)
    both[: len(PARTS)] = np.random.default_rng(seed).dirichlet(np.ones(len(PARTS))) * (1 + seed % 3)
    return Parts(name, both, False)


def drawn(devices, loads, rng):
    """Rows of devices as the hierarchy assumes them."""
    common = rng.multivariate_normal(np.zeros(COUNT + 2), class_prior._common_prior(TRUST))
    misfit = {parts.name: rng.normal(0, class_prior.WORKLOAD_SPREAD) for parts in loads}
    rows = []
    for device in devices:
        own = rng.multivariate_normal(np.zeros(COUNT + 2), class_prior._device_prior(TRUST))
        for parts in loads:
            logarithm, _ = class_prior._latency(common + own, parts)
            noise = rng.normal(0, TRUST.noise)
            rows.append(Measured(device, parts, math.exp(logarithm + misfit[parts.name] + noise)))
    return rows


def test_slopes_equal_finite_differences():
    parts, logs = load("a", 1), np.linspace(-0.5, 0.5, COUNT + 2)
    for wide in (False, True):
        parts = Parts("a", parts.seconds, wide)
        _, slope = class_prior._latency(logs, parts)
        for index in range(COUNT + 2):
            step = np.zeros(COUNT + 2)
            step[index] = 1e-6
            up, down = (class_prior._latency(logs + sign * step, parts)[0] for sign in (1, -1))
            assert slope[index] == pytest.approx((up - down) / 2e-6, abs=1e-6)


def test_the_fit_is_where_the_posterior_is_flat(monkeypatch):
    """The objective written out with every latent variable: nothing the least squares integrates out is left out."""
    loads = [load(f"n{i}", i) for i in range(4)]
    rows = drawn(["a", "b", "c"], loads, np.random.default_rng(5))
    monkeypatch.setattr(class_prior, "SMALL_STEP", 1e-10)
    monkeypatch.setattr(class_prior, "ROUNDS", 500)
    model = learn(rows, TRUST)
    common_precision = np.linalg.pinv(class_prior._common_prior(TRUST))
    device_precision = np.linalg.inv(class_prior._device_prior(TRUST))

    def pull(miss):
        return miss / TRUST.noise**2 / (1 + (miss / TRUST.noise) ** 2 / class_prior.DEGREES)

    misses, slopes = {}, {}
    for row in rows:
        logarithm, slope = class_prior._latency(model.common + model.devices[row.device], row.parts)
        misses[row.device, row.parts.name] = math.log(row.seconds) - logarithm
        slopes[row.device, row.parts.name] = slope
    for parts in loads:  # the misfit of a workload, where its own pull and those of its rows balance
        own = [key for key in misses if key[1] == parts.name]
        low, high = -5.0, 5.0
        for _ in range(80):
            middle = (low + high) / 2
            force = sum(pull(misses[key] - middle) for key in own) - middle / class_prior.WORKLOAD_SPREAD**2
            low, high = (middle, high) if force > 0 else (low, middle)
        for key in own:
            misses[key] -= low
    forces = {key: pull(miss) * slopes[key] for key, miss in misses.items()}
    total = sum(forces.values()) - common_precision @ model.common
    assert np.abs(total[:-1]).max() < 1e-6 * np.abs(common_precision @ model.common).max()
    for device, logs in model.devices.items():
        own = sum(force for key, force in forces.items() if key[0] == device)
        assert np.abs(own - device_precision @ logs).max() < 1e-6 * np.abs(own).max()


def test_a_class_tells_what_three_points_cannot():
    """Over many draws a new device is predicted better with its class at hand than from three points alone."""
    rng = np.random.default_rng(11)
    alone, together, inside = [], [], []
    for draw in range(60):
        loads = [load(f"n{i}", 10 * draw + i) for i in range(6)]
        rows = drawn([f"d{i}" for i in range(6)], loads, rng)
        unseen = loads[-1].name
        seen = [row for row in rows if row.parts.name != unseen]
        points = [row for row in seen if row.device == "d0"][:3]
        wanted = next(row for row in rows if row.parts.name == unseen and row.device == "d0")
        others = [row for row in seen if row.device != "d0"]
        guess = learn([*others, *points], TRUST).predict("d0", wanted.parts)
        own = learn(points, TRUST).predict("d0", wanted.parts)
        together.append(abs(math.log(guess.seconds / wanted.seconds)))
        alone.append(abs(math.log(own.seconds / wanted.seconds)))
        inside.append(guess.low <= wanted.seconds <= guess.high)
    assert np.mean(together) < 0.8 * np.mean(alone)
    assert np.mean(inside) >= 0.85


def test_an_outlier_moves_little():
    loads = [load(f"n{i}", i) for i in range(5)]
    rows = drawn([f"d{i}" for i in range(5)], loads, np.random.default_rng(2))
    spoiled = [*rows[:7], Measured(rows[7].device, rows[7].parts, 4 * rows[7].seconds), *rows[8:]]
    before, after = (learn(given, TRUST).predict("d3", loads[2]).seconds for given in (rows, spoiled))
    assert after == pytest.approx(before, rel=0.1)


def test_parts_of_a_network_are_its_priced_seconds():
    machine, layers = cpu(), network("mobilenetv2")
    for scheme, half in ((W8A8, 0), (FLOAT, 1)):
        work = workload_of(layers, W8A8, machine, "mobilenet")
        parts = parts_of(layers, scheme, machine, work)
        split = parts.seconds.reshape(2, len(PARTS))
        assert split[1 - half].sum() == 0
        found = dict(zip(PARTS, split[half], strict=True))
        assert found["dense"] > 0
        assert found["depthwise"] > 0
        compute = found["dense"] + found["depthwise"] + found["few_rows"] + found["vector"]
        assert compute == pytest.approx(work.compute.sum())
        assert found["memory"] == pytest.approx(work.memory.sum())


def test_a_workload_that_relatives_ran_is_predicted_better_and_with_honest_intervals():
    """What all devices of a class share of a network's misfit is learned from those that ran it."""
    rng = np.random.default_rng(4)
    with_it, without, inside = [], [], []
    for draw in range(80):
        loads = [load(f"n{i}", 10 * draw + i) for i in range(5)]
        rows = drawn([f"d{i}" for i in range(5)], loads, rng)
        target = next(row for row in rows if row.parts.name == "n4" and row.device == "d0")
        rows.remove(target)
        told = learn(rows, TRUST).predict("d0", target.parts)
        blind = learn([row for row in rows if row.parts.name != "n4"], TRUST).predict("d0", target.parts)
        with_it.append(abs(math.log(told.seconds / target.seconds)))
        without.append(abs(math.log(blind.seconds / target.seconds)))
        inside.append(told.low <= target.seconds <= told.high)
    assert np.median(with_it) < 0.8 * np.median(without)
    assert 0.82 <= np.mean(inside) <= 0.98
