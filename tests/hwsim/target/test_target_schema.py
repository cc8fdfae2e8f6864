"""The target: numbers with units, engines, derived values, provenance, round trip."""

import io
import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from ruamel.yaml import YAML

from hwsim.errors import UserError
from hwsim.target.engines import PRODUCTS, BitComposableEngine, BitSerialEngine, SimdEngine, SystolicEngine
from hwsim.target.load import parse_target
from hwsim.target.schema import Target, json_schema

SIX = {
    "schema_version": 1,
    "name": "my_npu",
    "clock_hz": "500 MHz",
    "units": 2,
    "engines": [{"macs_per_cycle": 256}],
    "memories": [{"name": "sram", "bytes": "1 MiB"}, {"name": "dram", "bandwidth": "4 GB/s"}],
    "power_w": 2,
}


def target(**changes) -> Target:
    return Target.model_validate({**SIX, **changes})


def test_six_numbers_make_a_target():
    found = target()
    assert found.peak_tops() == pytest.approx(2 * 2 * 256 * 0.5e9 * 1e-12)
    assert found.legal_widths("linear") == [(8, 8)]
    assert found.float_path is not None and found.float_path.macs_per_cycle == 64
    assert found.level("dram").bytes_per_cycle == 8
    assert found.level("dram").capacity == math.inf
    assert found.level("sram").kind == "sram" and found.level("dram").kind == "dram"
    assert all(found.vector_rate(kind) > 0 for kind in ("norm", "softmax", "add", "other"))
    assert found.sync_cycles > 0 and found.layer_launch_cycles > 0 and found.static_w > 0


@pytest.mark.parametrize(
    ("typed", "hertz"),
    [(625e6, 625e6), ("625 MHz", 625e6), ("0.625GHz", 625e6), ("625e6 Hz", 625e6), (1000, 1000.0)],
)
def test_frequencies(typed, hertz):
    assert target(clock_hz=typed).clock_hz == pytest.approx(hertz)


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (0, "greater than 0"),
        ("0 MHz", "greater than 0"),
        (-5, "greater than 0"),
        ("-5 MHz", "must be a number"),
        ("5 parsecs", "must be a number"),
        ("68 GB/s", "must be a number"),
        (True, "not true"),
        (None, "not empty"),
        ([1], "not a list"),
        (math.nan, "finite"),
        (math.inf, "finite"),
        (10**400, "finite"),
    ],
)
def test_bad_frequencies(typed, message):
    with pytest.raises(ValidationError, match=message):
        target(clock_hz=typed)


def test_bandwidth_needs_per_second():
    memories = [{"name": "sram", "bytes": 1}, {"name": "dram", "bandwidth": "4 GB"}]
    with pytest.raises(ValidationError, match="4 GB"):
        target(memories=memories)


def test_overheads_are_cycles_or_time():
    assert target(sync=100).sync_cycles == 100
    assert target(sync="2 us").sync_cycles == pytest.approx(1000)
    assert target(sync={"cycles": 10, "seconds": "2 us"}).sync_cycles == pytest.approx(1010)
    assert target(sync="0 us").sync_cycles == 0
    assert target(units=1, sync=100).sync_cycles == 0
    assert target(launch={"per_layer": 7}).layer_launch_cycles == 7


def test_bits_are_strict():
    for bits in ("4", 4.0, True, 0, 17):
        with pytest.raises(ValidationError):
            target(engines=[{"macs_per_cycle": 8, "packed_weight_bits": [bits]}])
    for key in ("w8", "8x8", "w0a8", "w8a17", "W8A8", "w8a8 "):
        with pytest.raises(ValidationError):
            target(engines=[{"macs_per_cycle": {key: 8}}])


def test_frozen():
    with pytest.raises(ValidationError):
        target().clock_hz = 1.0


# --- engines -----------------------------------------------------------------------------------------------


def test_simd_rates_and_derived_tile():
    engine = SimdEngine(macs_per_cycle={"w8a8": 256, "w4a4": 512})
    assert engine.rates() == {(8, 8): 256, (4, 4): 512}
    assert (engine.dimensions.n, engine.dimensions.k) == (64, 4)
    assert SimdEngine(macs_per_cycle={"w8a8": 1}).dimensions.n == 1


def test_systolic_rates_count_all_elements():
    engine = SystolicEngine(kind="systolic", rows=16, columns=8, arrays=2, macs_per_pe={"w8a8": 1, "w4a4": 2})
    assert engine.rates() == {(8, 8): 256, (4, 4): 512}


@pytest.mark.parametrize("serial", ["both", "weights", "activations"])
def test_bit_serial_rates_by_counting_bit_products(serial):
    """Brute force: multiply bit planes one pair at a time and count."""
    engine = BitSerialEngine(
        kind="bit_serial", bit_macs_per_cycle=64, serial=serial, weight_bits=[1, 2, 4], act_bits=[2, 8]
    )
    for (w, a), rate in engine.rates().items():
        planes_w = w if serial != "activations" else 4
        planes_a = a if serial != "weights" else 8
        steps = sum(1 for _ in range(planes_w) for _ in range(planes_a))
        assert rate == pytest.approx(64 / steps)


def test_bit_composable_follows_bit_fusions_formula():
    engine = BitComposableEngine(kind="bit_composable", rows=16, columns=32)
    for (w, a), rate in engine.rates().items():
        assert rate == 16 * 32 * (8 // max(a, 2)) * (8 // max(w, 2))
    assert engine.rates()[(2, 2)] == 16 * engine.rates()[(8, 8)]


def test_widths_of_packed_weights():
    found = target(
        engines=[{"macs_per_cycle": {"w8a8": 100}, "packed_weight_bits": [4], "unpack_overhead": 0.25}]
    )
    assert found.legal_widths("linear") == [(4, 8), (8, 8)]
    assert found.legal_widths("matmul") == [(8, 8)]
    packed = found.engine_for("linear", 4, 8)
    assert packed is not None and packed.packed and packed.macs_per_cycle == pytest.approx(80)
    assert (packed.weight_bits, packed.act_bits) == (8, 8)
    widened = found.engine_for("linear", 5, 5)  # not offered, yet it can run in 8 bits
    assert widened is not None and not widened.packed and widened.macs_per_cycle == 100


def test_four_bit_only_array_cannot_run_eight_bits():
    found = target(engines=[{"kind": "systolic", "rows": 8, "columns": 8, "macs_per_pe": {"w4a4": 1}}])
    assert found.legal_widths("conv2d") == [(4, 4)]
    assert found.engine_for("conv2d", 8, 8) is None
    assert found.peak_tops() == 0


def test_the_fastest_engine_wins_and_serves_decides():
    engines = [
        {"name": "slow", "macs_per_cycle": 10, "efficiency": 1.0},
        {"name": "fast", "macs_per_cycle": 100, "efficiency": 0.05, "serves": ["linear"]},
        {"name": "best", "macs_per_cycle": 50, "efficiency": 0.5, "serves": ["linear", "conv2d"]},
    ]
    found = target(engines=engines)
    assert found.engine_for("linear", 8, 8).engine.name == "best"
    assert found.engine_for("depthwise", 8, 8).engine.name == "slow"
    assert found.engines_for("matmul")[0].name == "slow"


@settings(max_examples=60, deadline=None)
@given(
    table=st.dictionaries(
        st.sampled_from(["w2a2", "w4a4", "w4a8", "w8a8", "w8a16"]), st.floats(0.5, 4096), min_size=1
    ),
    w=st.integers(1, 8),
    a=st.integers(1, 16),
)
def test_engine_for_is_the_brute_force_optimum(table, w, a):
    found = target(engines=[{"macs_per_cycle": table}])
    fitting = [r for (nw, na), r in found.engines[0].rates().items() if nw >= w and na >= a]
    choice = found.engine_for("linear", w, a)
    assert (choice.macs_per_cycle if choice else None) == max(fitting, default=None)


# --- memories and energy -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bits", "stored"), [(1, 1), (2, 2), (3, 4), (4, 4), (5, 8), (8, 8), (9, 16), (16, 16)]
)
def test_stored_bits(bits, stored):
    assert target().stored_bits(bits) == stored
    assert target(packing="dense").stored_bits(bits) == bits


def test_inner_bandwidth_is_derived_at_least_four_times_the_outer():
    assert (
        target(memories=[{"name": "a", "bytes": 1}, {"name": "b", "bandwidth": "1000 GB/s"}])
        .levels[0]
        .bytes_per_cycle
        == 8000
    )
    assert target().levels[0].bytes_per_cycle == 2 * 2 * 16  # two units, √256 rows and columns each


def test_mac_energy_scales_from_the_nearest_given_pair():
    assert target().mac_pj(8, 8) == pytest.approx(0.3)  # Horowitz: 0.2 multiply + 0.1 add
    found = target(energy={"mac_pj": {"w8a8": 3.0, "w2a2": 0.4}})
    assert found.mac_pj(8, 8) == 3.0 and found.mac_pj(2, 2) == 0.4
    assert found.mac_pj(8, 4) == pytest.approx(0.4 * 0.2 / (0.2 * 4 / 64 + 0.1))
    assert found.mac_pj(2, 3) < found.mac_pj(4, 4)


def test_sram_energy_matches_horowitz_at_both_of_his_points():
    small = target(memories=[{"name": "s", "bytes": 8192}, {"name": "d", "bandwidth": 1e9}])
    large = target(memories=[{"name": "s", "bytes": 2**20}, {"name": "d", "bandwidth": 1e9}])
    assert small.byte_pj("s") == pytest.approx(1.25)
    assert large.byte_pj("s") == pytest.approx(12.5, rel=0.15)


# --- the document ------------------------------------------------------------------------------------------


def test_provenance():
    found = target(
        engines=[{"macs_per_cycle": 256, "efficiency": 0.7}],
        calibration={
            "machine": "bench",
            "measured": {"engines.0.efficiency": {"median": 0.7, "low": 0.6, "high": 0.8, "rounds": 5}},
        },
    ).provenance()
    assert found["clock_hz"] == "given"
    assert found["engines.0.macs_per_cycle.w8a8"] == "given"
    assert found["engines.0.efficiency"] == "measured"
    assert found["memories.0.bandwidth"] == "derived"
    assert found["vector"] == "derived"
    assert found["packing"] == "default"
    assert set(found.values()) == {"given", "derived", "default", "measured"}


def test_replace_changes_by_path_and_validates():
    found = target().replace(
        {"clock_hz": "1 GHz", "units.count": 4, "memories.1.bandwidth": "8 GB/s", "sync.cycles": 5}
    )
    assert (found.clock_hz, found.unit_count, found.level("dram").bytes_per_cycle, found.sync_cycles) == (
        1e9,
        4,
        8,
        5,
    )
    with pytest.raises(UserError, match=r"units[.]count: Input should be greater"):
        target().replace({"units.count": 0})
    for path in ("memories.9.bandwidth", "units.count.x", "engines.first.rows"):
        with pytest.raises(UserError, match="has no such field"):
            target().replace({path: 1})
    with pytest.raises(UserError, match="nosuch"):
        target().replace({"nosuch.x": 1})


def test_replace_swaps_the_spelling_of_a_rate():
    found = target().replace({"memories.1.bytes_per_cycle": 3})
    assert found.bytes_per_cycle("dram") == 3
    assert found.replace({"memories.1.bandwidth": "1 GB/s"}).bytes_per_cycle("dram") == 2


def test_hash_ignores_spelling_and_notices_content():
    assert target().sha256 == target(clock_hz=500e6, units={"count": 2}).sha256
    assert target().sha256 != target(power_w=3).sha256
    assert json.loads(target().to_json())["name"] == "my_npu"


def test_json_schema_is_complete():
    schema = json_schema()
    assert schema["required"] == ["schema_version", "name", "clock_hz", "units", "engines", "memories"]
    assert schema["additionalProperties"] is False
    undocumented = [
        f"{name}.{field}"
        for name, part in {**schema["$defs"], "Target": schema}.items()
        for field, rule in part.get("properties", {}).items()
        if "description" not in rule and field not in ("kind", "weight_bits", "act_bits")
    ]
    assert undocumented == []
    assert '"gt"' not in json.dumps(schema)  # pydantic's own words must not leak


WIDTHS = st.sampled_from(["w2a2", "w4a4", "w4a8", "w8a8", "w8a16"])
SIZES = st.floats(1e-3, 1e12)
SIMD = st.fixed_dictionaries(
    {"macs_per_cycle": st.dictionaries(WIDTHS, SIZES, min_size=1)},
    optional={
        "kind": st.just("simd"),
        "efficiency": st.floats(0.01, 1),
        "serves": st.lists(st.sampled_from(PRODUCTS), min_size=1, max_size=4),
        "tile": st.fixed_dictionaries({}, optional={"m": st.integers(1, 64), "k": st.integers(1, 64)}),
        "accumulator_bits": st.integers(8, 64),
        "unpack_overhead": st.floats(0, 2),
    },
)
SYSTOLIC = st.fixed_dictionaries(
    {"kind": st.just("systolic"), "rows": st.integers(1, 256), "columns": st.integers(1, 256)},
    optional={
        "dataflow": st.sampled_from(["os", "ws", "is"]),
        "macs_per_pe": SIZES,
        "pipelined": st.booleans(),
    },
)
SERIAL = st.fixed_dictionaries(
    {"kind": st.just("bit_serial"), "bit_macs_per_cycle": SIZES},
    optional={
        "serial": st.sampled_from(["both", "weights"]),
        "weight_bits": st.lists(st.integers(1, 8), min_size=1),
    },
)
COMPOSABLE = st.fixed_dictionaries(
    {"kind": st.just("bit_composable"), "rows": st.integers(1, 64), "columns": st.integers(1, 64)}
)
OVERHEAD = SIZES | st.sampled_from(["5 us", "0 s", "1.5 ms"])
DOCUMENTS = st.fixed_dictionaries(
    {
        "schema_version": st.just(1),
        "name": st.from_regex(r"[a-z][a-z0-9_.-]{0,10}", fullmatch=True),
        "clock_hz": SIZES | st.sampled_from(["625 MHz", "1.2 GHz"]),
        "units": st.integers(1, 100)
        | st.fixed_dictionaries({"count": st.integers(1, 9)}, optional={"independent": st.booleans()}),
        "engines": st.lists(SIMD | SYSTOLIC | SERIAL | COMPOSABLE, min_size=1, max_size=3).map(
            lambda engines: [{**engine, "name": f"e{i}"} for i, engine in enumerate(engines)]
        ),
        "memories": st.just(
            [
                {"name": "sram", "bytes": "1 MiB", "holds": ["weights"]},
                {"name": "dram", "bandwidth": "1.5 GB/s"},
            ]
        ),
    },
    optional={
        "description": st.text(max_size=30),
        "float_fallback": st.just(False) | st.fixed_dictionaries({"macs_per_cycle": SIZES}),
        "vector": st.fixed_dictionaries(
            {"elements_per_cycle": SIZES | st.fixed_dictionaries({"norm": SIZES})}
        ),
        "sync": OVERHEAD,
        "launch": st.fixed_dictionaries({}, optional={"per_layer": OVERHEAD, "per_inference": OVERHEAD}),
        "host_link": st.fixed_dictionaries({"bandwidth": SIZES}, optional={"latency": st.just("1 us")}),
        "energy": st.fixed_dictionaries(
            {}, optional={"mac_pj": st.dictionaries(WIDTHS, SIZES), "static_w": SIZES}
        ),
        "packing": st.sampled_from(["dense", "power_of_two"]),
        "tvm": st.just({"target": {"kind": "llvm", "num-cores": 2, "mattr": ["+neon"]}}),
    },
)


@settings(max_examples=100, deadline=None)
@given(DOCUMENTS)
def test_yaml_round_trip(document):
    """Any document → target → YAML text → the same target, with the same hash and provenance."""
    first = Target.model_validate(document)
    stream = io.StringIO()
    yaml = YAML(typ="safe", pure=True)
    yaml.representer.ignore_aliases = lambda *_: True
    yaml.dump(first.document(), stream)
    second = parse_target(stream.getvalue(), "x.yaml")
    assert second == first and second.sha256 == first.sha256 and second.provenance() == first.provenance()
    assert second.document() == first.document()


@settings(max_examples=60, deadline=None)
@given(DOCUMENTS)
def test_every_derived_value_is_finite_and_positive(document):
    found = Target.model_validate(document)
    for level in found.levels:
        assert 0 < level.bytes_per_cycle < math.inf and 0 < level.efficiency <= 1 and level.byte_pj >= 0
    for kind in PRODUCTS:
        for w, a in found.legal_widths(kind):
            choice = found.engine_for(kind, w, a)
            assert choice is not None and 0 < choice.macs_per_cycle < math.inf and 0 < choice.efficiency <= 1
    assert found.sync_cycles >= 0 and found.layer_launch_cycles >= 0 and found.static_w >= 0
