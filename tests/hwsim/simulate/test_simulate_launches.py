"""Which operators pay for being started: all but fused ones, or only those on the longest path."""

import random
from dataclasses import replace
from types import SimpleNamespace

import pytest

from hwsim.simulate.cycle import simulate_scheme
from hwsim.simulate.launches import starts_of
from hwsim.simulate.machine import Engine, Level, Machine
from hwsim.simulate.vector import vector_costs
from quant.scheme import Scheme
from tests.hwsim.simulate.fake_graph import FakeLayer, linear

LAUNCH = 5000.0


def machine(overlaps, fused=("activation", "add", "mul")):
    engine = Engine("mac", "simd", frozenset({"linear"}), {(8, 8): 64.0}, tile=(1, 8, 8))
    memory = Level("ddr", float("inf"), 8.0, True)
    rates = {"add": 4.0, "other": 4.0, "activation": 4.0, "pool": 4.0}
    return Machine(
        "m", 1e9, 1, (engine,), (memory,), rates, launch_cycles=LAUNCH, overlaps_launches=overlaps,
        fused_kinds=frozenset(fused),
    )  # fmt: skip


def block():
    """A stem, then a long and a short branch that are written side by side."""
    return [
        linear("stem", 8, 16, 16, ("input:x",)),
        FakeLayer("relu", "activation", m=8, n=16, inputs=("stem",), input_shapes=((8, 16),), output_shape=(8, 16)),
        linear("short", 8, 16, 16, ("relu",)),
        linear("long1", 8, 16, 16, ("relu",)),
        linear("long2", 8, 16, 16, ("long1",)),
        FakeLayer(
            "cat", "other", m=8, n=32, inputs=("short", "long2"), input_shapes=((8, 16), (8, 16)),
            output_shape=(8, 32), op="cat",
        ),
    ]  # fmt: skip


def test_one_after_the_other_all_but_fused_ones_pay():
    assert starts_of(block(), machine(False)).paid == {"stem", "short", "long1", "long2", "cat"}
    assert starts_of(block(), machine(False, ("concat",))).paid == {"stem", "relu", "short", "long1", "long2"}


def test_together_the_longest_path_pays():
    assert starts_of(block(), machine(True)).paid == {"stem", "long1", "long2", "cat"}
    assert starts_of(block(), machine(True, ("activation", "concat"))).paid == {"stem", "long1", "long2"}


def test_as_many_pay_as_the_longest_of_all_paths_has():
    """The oracle walks every path of random graphs."""
    rng = random.Random(5)
    for _ in range(100):
        layers = []
        for index in range(rng.randint(1, 9)):
            inputs = tuple(f"l{i}" for i in range(index) if rng.random() < 0.4) or ("input:x",)
            kind = rng.choice(["linear", "add", "pool"])
            layers.append(FakeLayer(f"l{index}", kind, m=2, n=2, inputs=inputs))
        paths = {"input:x": [[]]}
        for layer in layers:
            paths[layer.name] = [[*path, layer] for name in layer.inputs for path in paths[name]]
        fused = {layer.name for layer in layers if layer.kind == "add" and layer.inputs != ("input:x",)}
        assert starts_of(layers, machine(True)).fused == fused
        counts = [sum(x.name not in fused for x in path) for found in paths.values() for path in found]
        assert len(starts_of(layers, machine(True)).paid) == max(counts)


@pytest.mark.parametrize("fused", [("activation",), ("activation", "concat")])
def test_cost_and_cycle_mode_pay_the_same_starts(fused):
    graph = SimpleNamespace(layers=block())
    found = [simulate_scheme(graph, Scheme(8, 8), machine(overlaps, fused)) for overlaps in (False, True)]
    # That of the short branch, less what it had hidden: the loading of 256 bytes of weights at 8 a cycle.
    assert found[0].cycles - found[1].cycles == pytest.approx(LAUNCH, abs=256 / 8.0)
    assert found[0].cost_cycles - found[1].cost_cycles == pytest.approx(LAUNCH)


def test_an_only_memory_is_where_operands_come_from():
    """At a hundred cycles a byte nothing but the memory counts: 576 bytes of a product, 256 of what follows it."""
    slow = replace(machine(False, ()), levels=(Level("ddr", float("inf"), 0.01, True),), launch_cycles=0.0)
    found = simulate_scheme(SimpleNamespace(layers=block()[:2]), Scheme(8, 8), slow)
    moved = (8 * 16 + 16 * 16 + 8 * 16 + 16 * 4, 2 * 8 * 16)  # input, codes, output, scales; in and out
    assert [layer.end - layer.start for layer in found.layers] == [100 * size for size in moved]
    assert found.cycles == found.cost_cycles


def test_vector_work_is_charged_for_the_memory_it_lies_in():
    """Both ways of counting, as the manual says: elements at the unit's rate or bytes at the memory's."""
    levels = (Level("sram", 2.0**20, 1.0, True), Level("ddr", float("inf"), 64.0, True))
    chip = replace(machine(False, ()), levels=levels, launch_cycles=0.0)
    found = simulate_scheme(SimpleNamespace(layers=block()[:2]), Scheme(8, 8), chip)
    product, vector = (layer.end - layer.start for layer in found.layers)
    assert product == 8 * 16 * 16 / 64  # its operands are at hand
    assert vector == 2 * 8 * 16  # a byte in and a byte out an element, at one a cycle
    assert found.cycles == found.cost_cycles


def test_parts_written_into_place_cost_nothing():
    apart = next(c for c in vector_costs(block(), machine(False)) if c.name == "cat")
    within = next(c for c in vector_costs(block(), machine(False, ("concat",))) if c.name == "cat")
    assert apart.cycles == 64 * 8 / 8.0 + LAUNCH  # bytes in and out at 8 a cycle
    assert (within.cycles, within.traffic_bytes) == (0.0, 0.0)
    alone = [replace(block()[-1], inputs=("input:x", "input:y"))]
    assert (
        vector_costs(alone, machine(False, ("concat",)))[0].cycles > 0
    )  # nobody wrote the network's inputs there


def test_what_only_moves_data_cannot_add():
    """A position embedding behind a concatenation is an operator of its own, at a copy's pace."""
    stem, tokens = linear("stem", 8, 16, 16, ("input:x",)), block()[-1]
    tokens = replace(tokens, inputs=("input:token", "stem"))
    position = FakeLayer(
        "add", "add", m=8, n=32, inputs=("cat",), input_shapes=((8, 32),), output_shape=(8, 32)
    )
    layers, quick = (
        [stem, tokens, position],
        replace(machine(False), vector_rates={"add": 64.0, "other": 0.5}),
    )
    assert starts_of(layers, quick).fused == set()
    assert vector_costs(layers, quick)[1].cycles == 8 * 32 / 0.5 + LAUNCH
    behind = replace(position, inputs=("stem",))
    assert starts_of([stem, behind], quick).fused == {"add"}


def test_beside_a_copy_work_joins_the_other_operand_if_nobody_else_reads_it():
    """Where both a window's copy and a residual that is read again come in, the addition stands alone."""
    stem, moved = linear("stem", 8, 16, 16, ("input:x",)), "copy"
    copy = FakeLayer("copy", "other", m=8, n=16, inputs=("stem",), input_shapes=((8, 16),), op=moved)
    other = linear("other", 8, 16, 16, ("stem",))
    shapes = ((8, 16), (8, 16))
    residual = FakeLayer("add", "add", m=8, n=16, inputs=("stem", "copy"), input_shapes=shapes)
    assert starts_of([stem, copy, residual], machine(False)).fused == set()
    beside = replace(residual, inputs=("other", "copy"))
    assert starts_of([stem, copy, other, beside], machine(False)).fused == {"add"}


def test_vector_work_moves_values_of_its_own_width():
    layers = [linear("stem", 8, 16, 16, ("input:x",)), replace(block()[-1], inputs=("stem", "stem"))]
    narrow, wide = (vector_costs(layers, replace(machine(False), vector_bits=bits))[0] for bits in (None, 32))
    assert wide.traffic_bytes == 4 * narrow.traffic_bytes
    assert wide.cycles >= narrow.cycles
