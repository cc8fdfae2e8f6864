"""The descriptors that ship: valid, sourced, and in agreement with the device survey."""

import re
from functools import lru_cache

import pytest
from ruamel.yaml import YAML

from hwsim.target.engines import PRODUCTS
from hwsim.target.load import descriptor_folder, list_targets, load_target
from tests.shared_data import shared

NAMES = [
    "dc_a100", "dc_h100", "dc_l4", "edge_gpu", "edge_tpu", "fpga_int4", "fpga_zu9eg", "hailo8", "hexagon",
    "mcu_m55_u55", "mcu_m7", "mobile_cpu", "orin_agx", "riscv_v", "x86_amx", "x86_avx512_vnni",
]  # fmt: skip


def test_all_of_them_ship():
    assert list_targets() == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_valid_and_named_after_its_file(name):
    target = load_target(name)
    assert target.name == name and target.description and target.device_class != "other"
    assert target.software is not None and target.power_w is not None
    assert target.legal_widths("linear") and target.legal_widths("conv2d")
    for kind in PRODUCTS:
        for w, a in target.legal_widths(kind):
            assert target.engine_for(kind, w, a) is not None
    assert 0 <= target.static_w < target.power_w


@pytest.mark.parametrize("name", NAMES)
def test_every_number_has_its_source(name):
    """A comment stands on each line with a number (the TVM dictionary and the schema version need none)."""
    bare: list[str] = []
    in_tvm = comment_above = False
    for line in (descriptor_folder() / f"{name}.yaml").read_text().splitlines():
        in_tvm = line.startswith("tvm:") or (in_tvm and line.startswith(" "))
        code, _, comment = line.partition(" #")
        if line.lstrip().startswith("#"):
            comment_above = True
            continue
        value = code.partition(":")[2] or code
        if re.search(r"(?<![A-Za-z_\d])\d", value) and not in_tvm and not comment and not comment_above:
            bare.append(line)
        comment_above = False
    assert [line for line in bare if not re.match(r"schema_version|description|  stack:", line)] == []


# --- against the survey ------------------------------------------------------------------------------------

# Our target, the survey's device, the key of its int8 peak.
PEAKS = [
    ("edge_gpu", "jetson_orin_nano_8gb", "int8"),
    ("orin_agx", "jetson_agx_orin_64gb", "int8_gpu"),
    ("dc_a100", "a100_sxm_80gb", "int8"),
    ("dc_h100", "h100_sxm_80gb", "int8"),
    ("dc_l4", "l4", "int8"),
    ("x86_amx", "xeon_8480_amx", "int8"),
    ("edge_tpu", "coral_edge_tpu", "int8"),
    ("mcu_m55_u55", "cortex_m55_ethos_u55_256", "int8"),
    ("hailo8", "hailo8", "int8"),
    ("hexagon", "hexagon_htp_x_elite", "int8"),
]
# Multiply-accumulates a cycle of one core, where the survey's part has another core count or clock than ours.
CORE_RATES = [
    ("mobile_cpu", "cortex_a78ae_x12_orin", "int8_sdot"),
    ("x86_avx512_vnni", "xeon_8380_vnni", "int8_avx512_vnni"),
    ("x86_amx", "xeon_8480_amx", "int8_amx"),
    ("mcu_m7", "cortex_m7_stm32h7a3", "int16_smlad"),
]
# fpga_zu9eg and fpga_int4 are designs of our own; riscv_v is not in the survey.


@lru_cache
def survey() -> dict:
    return YAML(typ="safe", pure=True).load(shared("ref/devices.yaml"))


@pytest.mark.parametrize(("name", "device", "key"), PEAKS)
def test_int8_peak_agrees_with_the_survey(name, device, key):
    assert load_target(name).peak_tops(8, 8) == pytest.approx(survey()[device]["peak_tops"][key], rel=0.05)


@pytest.mark.parametrize("name", ["dc_a100"])
def test_int4_peak_agrees_with_the_survey(name):
    assert load_target(name).peak_tops(4, 4) == pytest.approx(
        survey()["a100_sxm_80gb"]["peak_tops"]["int4"], rel=0.05
    )


@pytest.mark.parametrize(
    ("name", "device"),
    [
        ("edge_gpu", "jetson_orin_nano_8gb"),
        ("dc_a100", "a100_sxm_80gb"),
        ("dc_h100", "h100_sxm_80gb"),
        ("dc_l4", "l4"),
    ],
)
def test_fp16_peak_agrees_with_the_survey(name, device):
    target = load_target(name)
    assert target.float_path is not None and target.float_path.bits == 16
    tops = 2e-12 * target.float_path.macs_per_cycle * target.unit_count * target.clock_hz
    assert tops == pytest.approx(survey()[device]["peak_tops"]["fp16"], rel=0.05)


@pytest.mark.parametrize(("name", "device", "key"), CORE_RATES)
def test_core_rate_agrees_with_the_survey(name, device, key):
    rate = max(engine.rates()[(8, 8)] for engine in load_target(name).engines)
    assert rate == pytest.approx(survey()[device]["mac_per_cycle_per_core"][key], rel=0.05)


def test_measured_mcu_rate():
    """Peak times efficiency of the M7 is what MLPerf Tiny measured."""
    target = load_target("mcu_m7")
    engine = target.engines[0]
    measured = survey()["cortex_m7_stm32h7a3"]["mac_per_cycle_per_core"]["int8_effective_measured"]
    assert engine.rates()[(8, 8)] * target.engine_efficiency(engine) == pytest.approx(measured, rel=0.05)


@pytest.mark.parametrize(
    ("name", "device"),
    [pair[:2] for pair in PEAKS if pair[0] not in ("edge_tpu", "hailo8")]
    + [("mcu_m7", "cortex_m7_stm32h7a3")],
)
def test_memories_clock_and_units_agree_with_the_survey(name, device):
    target, entry = load_target(name), survey()[device]
    compared = 0
    if "freq_hz" in entry:
        assert target.clock_hz == pytest.approx(entry["freq_hz"], rel=0.01)
        compared += 1
    for unit in ("sm", "core"):
        if unit in entry["units"]:
            assert target.unit_count == entry["units"][unit]
            compared += 1
    ours = {level.name: level for level in target.levels}
    for memory in entry["mem"]:
        level = ours.get(
            {"offchip_flash": "flash", "ddr5_4800x8": "ddr5"}.get(memory["name"], memory["name"])
        )
        if level is None:
            continue
        if "bytes" in memory:
            assert level.capacity == pytest.approx(memory["bytes"], rel=0.05)
            compared += 1
        if "bw" in memory:
            assert level.bytes_per_cycle * target.clock_hz == pytest.approx(memory["bw"], rel=0.05)
            compared += 1
    assert compared >= 1


def test_edge_tpu_link_moves_vgg16_in_the_measured_time():
    """138 MB of weights minus 8 MB that stay, over the link: coral.ai measured 296 ms for the network."""
    target = load_target("edge_tpu")
    assert target.host_link is not None and "weights" in target.host_link.carries
    seconds = (138.4e6 - target.level("sram").capacity) / target.host_link.bandwidth
    assert 0.85 * 0.296 < seconds < 0.296


# --- TVM ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_tvm_takes_the_target_dictionary(name):
    tvm_target = pytest.importorskip("tvm.target", reason="TVM is not installed")
    described = load_target(name).tvm
    if described is None:
        assert name in ("edge_tpu", "fpga_zu9eg", "fpga_int4", "hailo8")
        return
    made = tvm_target.Target(dict(described.target))
    assert str(made.kind.name if hasattr(made.kind, "name") else made.kind) == described.target["kind"]
    if described.host is not None:
        tvm_target.Target(dict(described.host))
