"""Finding and reading descriptors: every mistake is one line with file, line and column."""

import os
import re

import pytest

from hwsim.errors import UserError
from hwsim.target import load
from hwsim.target.load import list_targets, load_target, parse_target

GOOD = """\
schema_version: 1
name: x
clock_hz: 625 MHz
units: 8
engines:
  - name: dot
    macs_per_cycle: 256
    serves: [linear, matmul]
    tile: {m: 8, n: 8, k: 4}
  - name: array
    kind: systolic
    rows: 16
    columns: 16
vector:
  elements_per_cycle:
    softmax: 4
float_fallback:
  macs_per_cycle: 8
memories:
  - name: l1
    bytes: 64 KiB
    shared: false
  - name: dram
    bandwidth: 68 GB/s
host_link:
  bandwidth: 1 GB/s
launch:
  per_layer: 5 us
energy:
  byte_pj: {dram: 40}
power_w: 15
"""


def errors(text: str) -> list[str]:
    with pytest.raises(UserError) as caught:
        parse_target(text, "edge_gpu.yaml")
    return str(caught.value).splitlines()


def test_good_descriptor():
    assert parse_target(GOOD, "x.yaml").unit_count == 8


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ("cycle: 256", "cycle: 0", "7:5 engines.0.macs_per_cycle: must be greater than 0"),
        ("cycle: 256", "cycle: {w8a8: -1}", "7:22 engines.0.macs_per_cycle.w8a8: must be greater than 0"),
        ("cycle: 256", "cycle: .inf", "7:5 engines.0.macs_per_cycle: must be a finite number"),
        ("cycle: 256", "cycle: .nan", "7:5 engines.0.macs_per_cycle: must be a finite number"),
        ("cycle: 256", "cycle: fast", "7:5 engines.0.macs_per_cycle: must be a mapping, not the text 'fast'"),
        (
            "cycle: 256",
            "cycle: {w8a8: yes}",
            "7:22 engines.0.macs_per_cycle.w8a8: must be a number, not the text 'yes'",
        ),
        ("cycle: 256", "cycle: {}", "7:5 engines.0.macs_per_cycle: must not be empty"),
        (
            "cycle: 256",
            "cycle: {int8: 4}",
            "7:22 engines.0.macs_per_cycle.int8: must name a width pair like 'w8a8' (1 to 16 bits each), "
            "not 'int8'",
        ),
        (
            "    macs_per",
            "    mac_per",
            "7:5 engines.0.mac_per_cycle: unknown field; did you mean 'macs_per_cycle'?",
        ),
        ("    rows: 16", "    rows: 16.5", "12:5 engines.1.rows: must be a whole number, not 16.5"),
        ("    rows: 16", "    rows: '16'", "12:5 engines.1.rows: must be a whole number, not the text '16'"),
        ("    rows: 16", "    rows: true", "12:5 engines.1.rows: must be a whole number, not true"),
        ("    rows: 16\n", "", "10:5 engines.1.rows: required field is missing"),
        ("m: 8,", "m: 0,", "9:12 engines.0.tile.m: must be at least 1"),
        ("m: 8,", "x: 8,", "9:12 engines.0.tile.x: unknown field; known: m, n, k"),
        (
            "kind: systolic",
            "kind: systolik",
            "11:5 engines.1.kind: must be one of simd, systolic, bit_serial, bit_composable, "
            "not the text 'systolik'; did you mean 'systolic'?",
        ),
        (
            "[linear, matmul]",
            "[linear, matmull]",
            "8:22 engines.0.serves.1: must be 'linear', 'conv2d', 'depthwise' or 'matmul', "
            "not the text 'matmull'; did you mean 'matmul'?",
        ),
        ("[linear, matmul]", "linear", "8:5 engines.0.serves: must be a list, not the text 'linear'"),
        (
            "name: array",
            "name: dot",
            "10:5 engines.1.name: the name 'dot' is taken; give each a name of its own",
        ),
        ("  - name: dot\n", "  - name: 5\n", "6:5 engines.0.name: must be text, not 5"),
        (
            "    softmax: 4",
            "    softmax: 0",
            "16:5 vector.elements_per_cycle.softmax: must be greater than 0",
        ),
        (
            "  macs_per_cycle: 8",
            "  macs_per_cycle: -8",
            "18:3 float_fallback.macs_per_cycle: must be greater than 0",
        ),
        (
            "  macs_per_cycle: 8",
            "  macs_per_cycl: 8",
            "18:3 float_fallback.macs_per_cycl: unknown field; did you mean",
        ),
        (
            "    shared: false",
            "    shared: no",
            "22:5 memories.0.shared: must be true or false, not the text 'no'",
        ),
        (
            "    bytes: 64 KiB\n",
            "",
            "20:5 memories.0.bytes: required field is missing (only the outermost memory may",
        ),
        (
            "64 KiB",
            "64 KiBi",
            "21:5 memories.0.bytes: must be a number or a quantity like '2 MiB', not the text '64 KiBi'",
        ),
        (
            "68 GB/s",
            "68 GB",
            "24:5 memories.1.bandwidth: must be a number or a quantity like '68 GB/s', not the text",
        ),
        ("    bandwidth: 68 GB/s\n", "", "23:5 memories.1.bandwidth: required field is missing"),
        (
            "68 GB/s",
            "68 GB/s\n    bytes_per_cycle: 4",
            "25:5 memories.1.bytes_per_cycle: give bandwidth or bytes_per_cycle, not both",
        ),
        (
            "68 GB/s",
            "68 GB/s\n    holds: [weights, activation]",
            "25:22 memories.1.holds.1: must be 'weights', 'activations'",
        ),
        (
            "  bandwidth: 1 GB/s",
            "  bandwith: 1 GB/s",
            "26:3 host_link.bandwith: unknown field; did you mean 'bandwidth'?",
        ),
        (
            "5 us",
            "5 uss",
            "28:3 launch.per_layer: must be a number or a quantity like '5 us', not the text '5 uss'",
        ),
        ("5 us", "{cycle: 5}", "28:15 launch.per_layer.cycle: unknown field; did you mean 'cycles'?"),
        ("{dram: 40}", "{drum: 40}", "30:13 energy.byte_pj.drum: no such memory; did you mean 'dram'?"),
        ("  byte_pj: {dram: 40}", "  static_w: 40 W", "30:3 energy.static_w: must not exceed power_w (15)"),
        ("power_w: 15", "power: 15", "31:1 power: unknown field; did you mean 'power_w'?"),
        ("power_w: 15", "units: 8", "31:1 units: duplicate field; it stands in line 4 already"),
        ("schema_version: 1", "schema_version: 2", "1:1 schema_version: must be 1, not 2"),
        (
            "schema_version: 1",
            "schema_version: '1'",
            "1:1 schema_version: must be the number 1, not the text '1'",
        ),
        ("schema_version: 1", "schema_version: true", "1:1 schema_version: must be the number 1, not true"),
        ("schema_version: 1\n", "", "1:1 schema_version: required field is missing"),
        ("name: x", "name: a b", "2:1 name: must be a short name of letters"),
        ("name: x", "name: ../x", "2:1 name: must be a short name of letters"),
        ("units: 8", "units: [8]", "4:1 units: must be a mapping of fields, not a list"),
        ("units: 8", "units: 0", "4:1 units: must be at least 1"),
        (
            "power_w: 15",
            "power_w: &x 15",
            "31:10 document: anchors and aliases (&, *) are not allowed; write the value out",
        ),
        ("power_w: 15", "power_w: [15", "32:1 document: not valid YAML"),
    ],
)
def test_each_mistake_has_its_line(old, new, line):
    assert GOOD.count(old) == 1
    found = errors(GOOD.replace(old, new))
    assert any(one.startswith(f"edge_gpu.yaml:{line}") for one in found), found
    assert all(re.match(r"edge_gpu\.yaml:\d+:\d+ [\w.]+: \S", one) for one in found)


def test_all_mistakes_are_listed_in_the_order_of_the_file():
    text = (
        GOOD.replace("625 MHz", "fast")
        .replace("rows: 16", "rows: 0")
        .replace("power_w: 15", "power_w: 15\nname: y")
    )
    found = errors(text)
    assert [one.split(" ")[1] for one in found] == ["clock_hz:", "engines.1.rows:", "name:"]


def test_shared_memory_cannot_come_before_a_private_one():
    text = GOOD.replace("    bandwidth: 68 GB/s", "    bandwidth: 68 GB/s\n    shared: false").replace(
        "shared: false\n  -", "shared: true\n  -"
    )
    assert errors(text) == [
        "edge_gpu.yaml:25:5 memories.1.shared: memories go from the engines outwards: "
        "one per unit cannot follow shared 'l1'"
    ]


@pytest.mark.parametrize("text", ["", "# only a comment\n", "~\n", "---\n"])
def test_empty(text):
    assert errors(text) == ["edge_gpu.yaml:1:1 document: is empty; see `hwsim target schema`"]


@pytest.mark.parametrize("text", ["hello", "[1, 2]", "42"])
def test_not_a_mapping(text):
    assert len(errors(text)) == 1
    assert "must be a mapping of fields" in errors(text)[0]


def test_yaml_syntax_error_names_the_place():
    assert errors("name: x\nunits: [1, 2\nclock: 3\n")[0].startswith("edge_gpu.yaml:3:")


# --- files -------------------------------------------------------------------------------------------------


def test_names_and_paths(tmp_path, monkeypatch):
    assert load_target("edge_gpu") == load_target("edge_gpu.yaml")
    mine = tmp_path / "mine.yaml"
    mine.write_text(GOOD)
    assert load_target(mine) == load_target(str(mine))
    monkeypatch.chdir(tmp_path)
    assert load_target("mine.yaml").name == "x"
    assert load_target("./mine.yaml").name == "x"
    (tmp_path / "edge_gpu").mkdir()  # a folder of a shipped name is no descriptor
    assert load_target("edge_gpu").name == "edge_gpu"
    mine.rename(tmp_path / "edge_gpu.yaml")  # a file beside the user comes before the shipped one
    assert load_target("edge_gpu.yaml").name == "x"


def test_unknown_name_gets_the_nearest_and_the_list():
    with pytest.raises(UserError, match="did you mean 'edge_gpu'\\?") as caught:
        load_target("edgegpu")
    assert all(name in str(caught.value) for name in list_targets())
    with pytest.raises(UserError, match="known targets"):
        load_target("nosuch.yaml")


def _line(path) -> str:
    with pytest.raises(UserError) as caught:
        load_target(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_files_that_are_no_descriptors(tmp_path):
    assert "is a directory" in _line(tmp_path)
    assert "No such file" in _line(tmp_path / "none.yaml")
    binary = tmp_path / "b.yaml"
    binary.write_bytes(b"name: x\n\xff\xfe\x00")
    assert f"{binary}:2:1 document: is no UTF-8 text (byte 0xff)" == _line(binary)
    binary.write_bytes(bytes(range(32)))
    assert "not valid YAML" in _line(binary)
    binary.write_bytes(b"a: 1\n" * 300_000)
    assert "larger than 1024 KiB" in _line(binary)
    binary.write_text(GOOD.replace("power_w: 15", "a: &a [1]\nb: [*a, *a]"))
    assert "anchors and aliases" in _line(binary)
    pipe = tmp_path / "pipe.yaml"
    os.mkfifo(pipe)
    assert "no regular file" in _line(pipe)
    with pytest.raises(UserError):
        load_target("")
    with pytest.raises(UserError):
        load_target("a\0b")


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_unreadable_file(tmp_path):
    path = tmp_path / "x.yaml"
    path.write_text(GOOD)
    path.chmod(0)
    assert "Permission denied" in _line(path)


def test_byte_order_mark_and_crlf(tmp_path):
    path = tmp_path / "x.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + GOOD.replace("\n", "\r\n").encode())
    assert load_target(path) == parse_target(GOOD, "x.yaml")


def test_packaged_folder_comes_first(tmp_path, monkeypatch):
    """In a wheel the descriptors lie in ``hwsim/target/descriptors``."""
    package = tmp_path / "hwsim" / "target"
    (package / "descriptors").mkdir(parents=True)
    (package / "descriptors" / "only.yaml").write_text(GOOD)
    monkeypatch.setattr(load, "__file__", str(package / "load.py"))
    assert list_targets() == ["only"]
    assert load_target("only").name == "x"
