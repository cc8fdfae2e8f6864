"""SCALE-Sim 3.0.0, row by row: cycles, utilisation, SRAM and DRAM counts, 0 mismatches."""

import csv

import pytest

from hwsim.errors import UserError
from hwsim.simulate.scalesim_files import read_config, read_topology
from hwsim.simulate.systolic import SystolicLayer, scalesim_calc_report, systolic_counts
from tests.shared_data import shared

RUNS = ["resnet18_32x32_os", "resnet18_32x32_ws", "resnet18_32x32_is", "resnet50_32x32_ws"]


@pytest.mark.parametrize("run", RUNS)
def test_every_published_row_is_reproduced(run):
    model, array, dataflow = run.split("_")
    config = read_config(shared(f"ref/configs/cfg_{array}_{dataflow}.cfg"))
    topology = read_topology(shared(f"ref/topologies/{model}_scalesim.csv"))
    rows = list(csv.DictReader(shared(f"ref/scalesim_{run}.csv").open()))
    assert len(rows) == len(topology)
    for row, entry in zip(rows, topology, strict=True):
        layer = entry.layer
        assert (layer.m, layer.n, layer.k) == (int(row["M"]), int(row["N"]), int(row["K"]))
        counts = systolic_counts(layer, config.rows, config.columns, config.dataflow, compat="scalesim")
        report = scalesim_calc_report(counts, config.columns, config.input_sram_bytes)
        integers = {
            "total_cycles": counts.cycles,
            "sram_ifmap_reads": counts.sram_input_reads,
            "sram_filter_reads": counts.sram_filter_reads,
            "sram_ofmap_writes": counts.sram_output_writes,
            "dram_ifmap_reads": counts.dram_input_reads,
            "dram_filter_reads": counts.dram_filter_reads,
            "dram_ofmap_writes": counts.dram_output_writes,
            "total_cycles_incl_prefetch": report.cycles_with_prefetch,
        }
        floats = {
            "overall_util_pct": counts.overall_utilisation,
            "mapping_eff_pct": counts.mapping_efficiency,
            "compute_util_pct": counts.compute_utilisation,
            "sram_ifmap_bw": report.sram_input_bandwidth,
            "sram_filter_bw": report.sram_filter_bandwidth,
            "sram_ofmap_bw": report.sram_output_bandwidth,
            "dram_ifmap_bw": report.dram_input_bandwidth,
            "dram_filter_bw": report.dram_filter_bandwidth,
            "dram_ofmap_bw": report.dram_output_bandwidth,
        }
        for column, value in integers.items():
            if row[column]:
                assert value == int(float(row[column])), (row["layer"], column)
        for column, value in floats.items():
            if row[column]:
                assert value == pytest.approx(float(row[column]), rel=1e-5, abs=1e-6), (row["layer"], column)


def brute_force_conv(height, width, filter_h, filter_w, channels, stride):
    """Enumerate the addresses as SCALE-Sim's operand matrix does."""
    out_h, out_w = (
        -(-(height - filter_h + stride) // stride),
        -(-(width - filter_w + stride) // stride),
    )
    addresses = [
        (i * stride + r, j * stride + s, c)
        for i in range(out_h)
        for j in range(out_w)
        for r in range(filter_h)
        for s in range(filter_w)
        for c in range(channels)
        if i * stride + r < height and j * stride + s < width
    ]
    return out_h * out_w, len(set(addresses)), len(addresses)


@pytest.mark.parametrize("height", [5, 6, 7, 9])
@pytest.mark.parametrize("filter_w", [1, 2, 3])
@pytest.mark.parametrize("stride", [1, 2, 3, 4])
def test_touched_addresses_equal_an_enumeration(height, filter_w, stride):
    layer = SystolicLayer.conv((height, 8), (2, filter_w), 3, 4, (stride, stride))
    assert (layer.m, layer.input_addresses, layer.window_reads) == brute_force_conv(
        height, 8, 2, filter_w, 3, stride
    )


def test_windows_over_the_edge_are_read_only_as_published():
    """Measured on SCALE-Sim 3.0.0: a 27x27x8 input, 5x5 kernel, stride 3, 20 filters, 8x8 output stationary."""
    layer = SystolicLayer.conv((27, 27), (5, 5), 8, 20, (3, 3))
    published = systolic_counts(layer, 8, 8, "os", compat="scalesim")
    assert (published.cycles, published.sram_input_reads, published.dram_input_reads) == (7061, 48600, 5832)
    assert systolic_counts(layer, 8, 8, "os").sram_input_reads == 3 * layer.window_reads


def test_corrected_model_differs_as_documented():
    layer = SystolicLayer.gemm(100, 70, 50)
    published = systolic_counts(layer, 16, 8, "os", compat="scalesim")
    corrected = systolic_counts(layer, 16, 8, "os")
    folds = 7 * 9
    assert corrected.cycles - published.cycles == folds * 16 + 1
    assert published.sram_output_writes - corrected.sram_output_writes == folds * (16 + 8)
    stationary = systolic_counts(layer, 16, 8, "ws")
    assert stationary.dram_output_writes == 100 * 70
    assert stationary.sram_output_reads == 100 * 70 * (4 - 1)
    assert stationary.overall_utilisation <= stationary.compute_utilisation <= stationary.mapping_efficiency


def drained_array_cycles(rows, columns, through_time):
    """March a wavefront through an output-stationary array, then shift the outputs out of its columns."""
    last_product = (
        max(r + c + t for r in range(rows) for c in range(columns) for t in range(through_time)) + 1
    )
    return last_product + rows


@pytest.mark.parametrize(("rows", "columns", "k"), [(1, 1, 1), (4, 3, 5), (8, 8, 2), (2, 9, 17)])
def test_corrected_fold_equals_a_marched_wavefront(rows, columns, k):
    counts = systolic_counts(SystolicLayer.gemm(rows, columns, k), rows, columns, "os")
    assert counts.cycles == drained_array_cycles(rows, columns, k)


def test_depthwise_rows_become_one_layer_per_channel():
    rows = read_topology(shared("ref/topologies/mobilenetv2_scalesim.csv"))
    first = next(row for row in rows if "DP" in row.layer.name)
    assert (first.layer.m, first.layer.n, first.layer.k, first.instances) == (12544, 1, 9, 32)


def test_a_broken_topology_names_its_line(tmp_path):
    path = tmp_path / "net.csv"
    path.write_text("header\nconv1, 8, 8, 3\n")
    with pytest.raises(UserError, match="line 2"):
        read_topology(path)
