"""The fit and the groups against worked cases: nothing is timed here."""

import numpy as np
import pytest

from hwsim.measure.device import Sample, by_layer, caches, sampled
from hwsim.measure.fit import fit_fields
from hwsim.measure.layers import grouped, predicted
from hwsim.model.graph import ConvShape, Layer, LayerGraph
from hwsim.simulate.cycle import simulate_scheme
from hwsim.simulate.pricing import prepared_inputs
from hwsim.target.schema import Target
from quant.scheme import Scheme


def host(**changes):
    document = {
        "schema_version": 1, "name": "host", "clock_hz": 1e9, "units": 1,
        "engines": [{"name": "dot", "macs_per_cycle": 64, "tile": {"m": 1, "n": 16, "k": 4}, "efficiency": 0.8,
                     "output_cycles": 0.5, "input_cycles": 0.2, "pads_window": True}],
        "vector": {"elements_per_cycle": {"default": 2, "activation": 8}, "row_cycles": {"norm": 50}},
        "memories": [{"name": "l1", "bytes": 32768, "bandwidth": 1e12, "shared": False},
                     {"name": "main", "bandwidth": 1e12}],
        "launch": {"per_layer": {"seconds": 1e-6}}, "float_fallback": False,
    }  # fmt: skip
    return Target.model_validate(document).replace(changes)


def linear(name, before, m, n, k):
    return Layer(
        name, "linear", "linear", (before,), ((m, k),), (m, n), m=m, n=n, k=k, macs=m * n * k, elements=m * n
    )


def vector(name, kind, befores, shape, op=""):
    return Layer(
        name, kind, op or kind, befores, (shape,) * len(befores), shape, elements=shape[0] * shape[1]
    )


def graph():
    layers = (
        linear("a", "input:x", 64, 128, 96),
        vector("norm", "norm", ("a",), (64, 128)),
        linear("b", "norm", 64, 512, 128),
        vector("act", "activation", ("b",), (64, 512), "gelu"),
        linear("c", "act", 64, 128, 512),
        vector("sum", "add", ("a", "c"), (64, 128)),
        linear("d", "sum", 64, 32, 128),
    )
    return LayerGraph(model="m", layers=layers, inputs=("x",), input_shapes=((64, 96),), outputs=("d",))


def times(target):
    simulation = simulate_scheme(graph(), Scheme.parse("w8a8"), target)
    return [layer.cycles / simulation.clock_hz for layer in simulation.layers]


def test_fit_finds_the_fields_that_made_the_times():
    hidden = {"engines.0.efficiency": 0.55, "engines.0.output_cycles": 1.5, "launch.per_layer.seconds": 3e-6}
    guesses = {"engines.0.efficiency": 0.8, "engines.0.output_cycles": 0.5, "launch.per_layer.seconds": 1e-6}
    wanted = times(host(**hidden))
    fit = fit_fields(host(), guesses, times, wanted, ceilings={"engines.0.efficiency": 1.0})
    assert np.abs(fit.misses).max() < 0.03
    assert fit.target.engines[0].efficiency == pytest.approx(0.55, rel=0.1)
    assert fit.target.engines[0].output_cycles == pytest.approx(1.5, rel=0.15)
    assert fit.log_spread < 0.03
    assert set(fit.deviations) == set(guesses)


def test_fit_stays_below_a_ceiling():
    wanted = [seconds / 3 for seconds in times(host())]  # faster than the machine can be
    fit = fit_fields(
        host(), {"engines.0.efficiency": 0.8}, times, wanted, ceilings={"engines.0.efficiency": 1.0}
    )
    assert fit.target.engines[0].efficiency == pytest.approx(1.0)


def test_one_layer_far_off_does_not_bend_the_fit():
    wanted = times(host(**{"engines.0.efficiency": 0.4}))
    wanted[0] *= 4
    fit = fit_fields(
        host(), {"engines.0.efficiency": 0.8}, times, wanted, ceilings={"engines.0.efficiency": 1.0}
    )
    assert fit.target.engines[0].efficiency == pytest.approx(0.4, rel=0.2)


def test_vector_work_without_a_kernel_of_its_own_joins_the_layer_that_ran_last():
    measured = {"a": 1.0, "b": 2.0, "c": 3.0, "d": 4.0, "copy": 0.5}
    groups = grouped(graph().layers, measured)
    assert [(g.name, g.layers) for g in groups] == [
        ("a", ("a", "norm")), ("b", ("b", "act")), ("c", ("c", "sum")), ("d", ("d",)),
    ]  # fmt: skip
    assert [g.measured for g in groups] == [1.5, 2.0, 3.0, 4.0]  # the stray copy is not lost
    simulation = simulate_scheme(graph(), Scheme.parse("w8a8"), host())
    whole = sum(layer.cycles for layer in simulation.layers) / simulation.clock_hz
    assert sum(predicted(groups, simulation)) == pytest.approx(whole)


def test_inputs_are_prepared_where_no_layer_hands_them_over():
    found = prepared_inputs(graph().layers)
    assert found == {
        "a": 64 * 96,
        "b": 0,
        "c": 0,
        "d": 0,
    }  # the norm, the activation and the sum have one reader
    shape = ConvShape((1, 1), (1, 1), (0, 0), (1, 1), 4, 4, (2, 2), (2, 2))
    twin = [
        Layer(
            "p", "conv2d", "conv2d", ("input:x",), ((1, 4, 2, 2),), (1, 4, 2, 2), m=4, n=4, k=4, conv=shape
        ),
        Layer("q", "conv2d", "conv2d", ("p",), ((1, 4, 2, 2),), (1, 4, 2, 2), m=4, n=4, k=4, conv=shape),
        Layer("r", "conv2d", "conv2d", ("p",), ((1, 4, 2, 2),), (1, 4, 2, 2), m=4, n=4, k=4, conv=shape),
    ]
    assert prepared_inputs(twin) == {"p": 64, "q": 16, "r": 0}  # gathered image; the codes of p are made once


def test_every_new_field_costs_what_its_name_says():
    base = times(host())
    more = times(host(**{"engines.0.output_cycles": 1.5}))
    assert (more[0] - base[0]) * 1e9 == pytest.approx(64 * 128, rel=1e-6)  # one more cycle an output
    inputs = times(host(**{"engines.0.input_cycles": 1.2}))
    assert (inputs[0] - base[0]) * 1e9 == pytest.approx(64 * 96, rel=1e-6)
    assert inputs[2] == pytest.approx(base[2])
    rows = times(host(**{"vector.row_cycles.norm": 150}))
    assert (rows[1] - base[1]) * 1e9 == pytest.approx(64 * 100, rel=1e-6)
    smooth = times(host(**{"vector.elements_per_cycle.smooth": 1}))
    assert (smooth[3] - base[3]) * 1e9 == pytest.approx(64 * 512 * (1 - 1 / 8), rel=1e-6)


def test_steps_are_summed_by_layer_round_by_round():
    found = by_layer(["a", "b", "a"], [[1.0, 2.0, 3.0], [2.0, 2.0, 4.0], [1.0, 1.0, 1.0]])
    assert found["a"] == Sample(4.0, 2.0, 6.0, 3)
    assert found["b"] == Sample(2.0, 1.0, 2.0, 3)


def test_a_sample_is_ordered_and_positive():
    sample = sampled(lambda: sum(range(200)), rounds=3)
    assert 0 < sample.low <= sample.median <= sample.high
    assert sample.rounds == 3


def test_caches_grow_outwards():
    sizes = [size for _, size, _ in caches()]
    assert sizes == sorted(sizes)
