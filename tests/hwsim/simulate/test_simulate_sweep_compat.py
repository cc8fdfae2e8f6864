"""Sweeps with charts, and SCALE-Sim's count beside the corrected one, through the command line."""

import csv
import json
import re
from itertools import pairwise
from xml.etree import ElementTree

import pytest

from hwsim.cli.main import run
from hwsim.report.sweep import SweepRow, sweep_html, sweep_svg, value_text
from hwsim.simulate.compat import compared_layers, systolic_layer
from hwsim.simulate.graph_source import layer_graph
from hwsim.simulate.systolic import systolic_counts
from hwsim.target.schema import Target
from tests.shared_data import shared

NAMESPACE = {"s": "http://www.w3.org/2000/svg"}
ARRAY = {
    "schema_version": 1, "name": "array", "clock_hz": 1e9, "units": 1,
    "engines": [{"kind": "systolic", "rows": 32, "columns": 32, "dataflow": "ws"}],
    "memories": [{"name": "sram", "bytes": 2**26}, {"name": "dram", "bandwidth": 1e11}],
}  # fmt: skip


def sweep_rows():
    return [
        SweepRow({"clock": clock, "units": units}, 1 / clock / units, 0.5 / clock / units, 1e-3)
        for clock in (5e8, 1e9, 2e9)
        for units in (1, 4)
    ]


def test_chart_has_a_line_and_a_roofline_for_each_setting_of_the_other_parameters():
    root = ElementTree.fromstring(sweep_svg(sweep_rows()))
    lines = [p for p in root.findall("s:path", NAMESPACE) if p.get("class", "").startswith("line ")]
    assert len(lines) == 4  # two settings of units, each with its bound
    points = [[tuple(map(float, pair.split())) for pair in line.get("d")[1:].split("L")] for line in lines]
    assert all(len(line) == 3 for line in points)
    assert all(later[1] > earlier[1] for line in points for earlier, later in pairwise(line))
    labels = [text.text for text in root.findall("s:text", NAMESPACE)]
    assert {"units 1", "units 4"} <= set(labels)


def test_page_lists_every_point_and_names_the_fastest():
    page = sweep_html(sweep_rows(), "a <b> & c")
    assert len(re.findall("<tr>", page)) == 7
    assert "a &lt;b&gt; &amp; c" in page
    assert "clock 2 GHz, units 4" in page
    assert "http" not in page.replace("http://www.w3.org/2000/svg", "")


def test_values_carry_their_units():
    assert value_text("clock", 1.5e9) == "1.5 GHz"
    assert value_text("dram_gbps", 20) == "20 GB/s"
    assert value_text("units", 4) == "4"


def test_sweep_writes_both_files(tmp_path, capsys):
    arguments = ["simulate", "-m", "resnet18", "-t", "edge_gpu", "--sweep", "units=1:2,dram_gbps=20:40:80"]
    assert run([*arguments, "-o", str(tmp_path), "--json"]) == 0
    points = json.loads(capsys.readouterr().out)
    assert len(points) == 6
    assert points[-1]["seconds"] <= points[0]["seconds"]
    assert all(point["roofline_seconds"] <= point["seconds"] for point in points)
    ElementTree.parse(tmp_path / "sweep.svg")
    assert "<table>" in (tmp_path / "sweep.html").read_text()


@pytest.mark.parametrize(
    "extra", [["-o", "out"], ["--sweep", "units=1:2", "--trace", "t.json"], ["--compat", "scalesim"]]
)
def test_flags_that_do_not_go_together(extra, capsys):
    assert run(["simulate", "-m", "resnet18", "-t", "edge_gpu", *extra]) == 2
    assert capsys.readouterr().err.startswith("hwsim: error: --")


def test_compat_gives_scalesims_cycles_of_resnet18():
    with shared("ref/scalesim_resnet18_32x32_ws.csv").open() as stream:
        published = [int(row["total_cycles"]) for row in csv.DictReader(stream)]
    rows = compared_layers(Target.model_validate(ARRAY), layer_graph("resnet18"))
    assert sorted(row.published_cycles for row in rows) == sorted(published)
    assert all(row.corrected_cycles == row.published_cycles + row.instances for row in rows)


def test_depthwise_layers_are_counted_channel_by_channel():
    graph = layer_graph("mobilenet_v2")
    layer = next(layer for layer in graph.products() if layer.is_depthwise)
    one = systolic_layer(layer)
    assert (one.m, one.n, one.k) == (layer.m, 1, layer.k)
    row = next(r for r in compared_layers(Target.model_validate(ARRAY), graph) if r.name == layer.name)
    assert row.instances == layer.groups
    assert row.corrected_cycles == layer.groups * systolic_counts(one, 32, 32, "ws").cycles
