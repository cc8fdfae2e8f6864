"""Calibration: gradients by finite differences, recovery of a synthetic device, honest intervals."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest

from hwsim.simulate.calibration import (
    PARAMETERS,
    Point,
    Workload,
    _gradient,
    _log_latency,
    calibrate,
    points_to_measure,
    prior,
    workload_of,
)
from hwsim.target.load import load_target
from quant.scheme import Scheme
from tests.hwsim.simulate.fake_graph import FakeLayer, cpu, network


def workloads(machine):
    models = ["resnet18", "resnet50", "mobilenetv2", "vit_b16"]
    return [workload_of(network(model), Scheme.parse("w8a8"), machine, model) for model in models]


def test_gradient_equals_finite_differences():
    machine = cpu()
    load = replace(workloads(machine)[0], is_wide=True)
    logs = prior(machine).logs + 0.1
    exact = _gradient(logs, load)
    for index in range(len(PARAMETERS)):
        step = np.zeros(len(PARAMETERS))
        step[index] = 1e-6
        numeric = (_log_latency(logs + step, load) - _log_latency(logs - step, load)) / 2e-6
        assert exact[index] == pytest.approx(numeric, abs=1e-5)


def test_three_points_find_a_device_twice_as_slow():
    machine = cpu()
    *known, unseen = workloads(machine)
    truth = prior(machine).logs + np.array([0, 0, 0.2, 0, 0, 0, 0, math.log(2)])
    points = [Point(load, math.exp(_log_latency(truth, load))) for load in known]
    wanted = math.exp(_log_latency(truth, unseen))
    before, after = prior(machine).predict(unseen), calibrate(machine, points, relative=True).predict(unseen)
    assert abs(after.seconds / wanted - 1) < 0.05 < abs(before.seconds / wanted - 1)
    assert after.high / after.low < before.high / before.low
    assert before.low < wanted < before.high


def test_intervals_cover_devices_drawn_from_the_prior():
    """Devices and misfits as the model assumes them: nine of ten lie inside the zero-shot interval."""
    machine, rng = cpu(), np.random.default_rng(3)
    before = prior(machine)
    load = workloads(machine)[1]
    inside = 0
    for _ in range(400):
        logs = rng.multivariate_normal(before.logs, before.covariance)
        seconds = math.exp(_log_latency(logs, load) + rng.normal(0, before.spread))
        prediction = before.predict(load)
        inside += prediction.low <= seconds <= prediction.high
    assert 0.85 <= inside / 400 <= 0.95


def test_no_points_is_the_descriptor_alone():
    machine = cpu()
    assert calibrate(machine, []).predict(workloads(machine)[0]) == prior(machine).predict(
        workloads(machine)[0]
    )


def test_a_workload_counts_launches_and_marks_vector_work():
    load = workload_of(network("resnet18"), Scheme.parse("w8a8"), cpu())
    assert isinstance(load, Workload)
    assert load.launches == 21
    assert not load.vector.any()


def test_points_are_chosen_by_what_they_tell():
    machine = cpu()
    loads = workloads(machine)
    chosen = points_to_measure(machine, [loads[0], loads[0], *loads[1:]], 3)
    assert len(set(chosen)) == 3
    assert not {0, 1} <= set(chosen)  # the same network twice says little the second time
    assert points_to_measure(machine, loads, 10) == [*points_to_measure(machine, loads, 4)]

    def uncertainty(picks):
        truth = prior(machine).logs
        model = calibrate(machine, [Point(loads[i], math.exp(_log_latency(truth, loads[i]))) for i in picks])
        gradients = [_gradient(model.logs, load) for load in loads]
        return max(float(g @ model.covariance @ g) for g in gradients)

    best = points_to_measure(machine, loads, 2)
    others = [(a, b) for a in range(len(loads)) for b in range(a + 1, len(loads))]
    assert uncertainty(best) <= 1.5 * min(uncertainty(pair) for pair in others)


def test_a_point_that_is_less_sure_pulls_less():
    machine = cpu()
    load = workloads(machine)[0]
    told = prior(machine).predict(load).seconds
    found = [calibrate(machine, [Point(load, 2 * told, spread)]) for spread in (0.01, 0.5, 1e3)]
    sure, unsure, useless = (each.predict(load) for each in found)
    assert told < unsure.seconds < sure.seconds == pytest.approx(2 * told, rel=0.01)
    assert useless.seconds == pytest.approx(told, rel=1e-3)
    assert sure.high / sure.low < unsure.high / unsure.low < useless.high / useless.low


@pytest.mark.parametrize("name", ["dc_a100", "x86_amx", "mobile_cpu"])
@pytest.mark.parametrize("model", ["mobilenetv2", "vit_b16"])
def test_a_faster_clock_never_predicts_a_slower_network(name, model):
    """Barriers that do not shrink with the clock must not make the sum prefer fewer units and count only those."""
    target, layers = load_target(name), network(model)
    layers.append(
        FakeLayer(
            "soft", "softmax", m=197, n=768, inputs=(layers[-1].name,), input_shapes=((197, 768),),
            output_shape=(197, 768),
        )
    )  # fmt: skip
    latencies = [
        prior(faster).predict(workload_of(layers, Scheme.parse("w8a8"), faster)).seconds
        for faster in (target.replace({"clock_hz": target.clock_hz * 1.1**step}) for step in range(-6, 7))
    ]
    assert all(slow >= fast for slow, fast in itertools.pairwise(latencies))
