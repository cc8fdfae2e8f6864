"""Read the topology and configuration files of SCALE-Sim, so that its users can bring theirs.

Convolution rows: name, input height, input width, filter height, filter width, channels, filters, stride.
GEMM rows: name, M, N, K. A row whose name contains ``DP`` stands for a depthwise layer: one single-channel
layer per channel, as SCALE-Sim expands it.
"""

import configparser
from dataclasses import dataclass
from pathlib import Path

from hwsim.errors import UserError
from hwsim.simulate.systolic import DATAFLOWS, Dataflow, SystolicLayer


@dataclass(frozen=True)
class TopologyRow:
    """One row of a topology file; ``instances`` equal layers run one after another."""

    layer: SystolicLayer
    instances: int


@dataclass(frozen=True)
class ScaleSimConfig:
    """The fields of a SCALE-Sim configuration that its closed forms depend on."""

    rows: int
    columns: int
    dataflow: Dataflow
    input_sram_bytes: int
    filter_sram_bytes: int
    output_sram_bytes: int


def read_topology(path: Path, gemm: bool = False) -> list[TopologyRow]:
    """Layers of a SCALE-Sim topology CSV, in order."""
    rows: list[TopologyRow] = []
    for number, line in enumerate(_lines(path), start=1):
        if number == 1 or not line.strip():
            continue
        cells = [cell.strip() for cell in line.split(",") if cell.strip()]
        try:
            name, sizes = cells[0], [int(cell) for cell in cells[1 : 4 if gemm else 8]]
            rows.append(_gemm_row(name, sizes) if gemm else _conv_row(name, sizes))
        except (ValueError, IndexError) as error:
            wanted = "name, M, N, K" if gemm else "name and seven integers"
            raise UserError(f"{path}, line {number}: expected {wanted}, found {line.strip()!r}") from error
    return rows


def _gemm_row(name: str, sizes: list[int]) -> TopologyRow:
    m, n, k = sizes
    return TopologyRow(SystolicLayer.gemm(m, n, k, name), 1)


def _conv_row(name: str, sizes: list[int]) -> TopologyRow:
    height, width, filter_h, filter_w, channels, filters, stride = sizes
    depthwise = "DP" in name
    layer = SystolicLayer.conv(
        (height, width), (filter_h, filter_w), 1 if depthwise else channels, filters, (stride, stride), name
    )
    return TopologyRow(layer, channels if depthwise else 1)


def read_config(path: Path) -> ScaleSimConfig:
    """Array, dataflow and SRAM sizes of a SCALE-Sim ``.cfg`` file."""
    parser = configparser.ConfigParser()
    parser.read_string("\n".join(_lines(path)))
    try:
        section = parser["architecture_presets"]
        dataflow = section["Dataflow"].strip().lower()
        if dataflow not in DATAFLOWS:
            raise UserError(f"{path}: Dataflow is {dataflow!r}; write one of os, ws, is")
        return ScaleSimConfig(
            rows=int(section["ArrayHeight"]),
            columns=int(section["ArrayWidth"]),
            dataflow=dataflow,
            input_sram_bytes=1024 * int(section["IfmapSramSzkB"]),
            filter_sram_bytes=1024 * int(section["FilterSramSzkB"]),
            output_sram_bytes=1024 * int(section["OfmapSramSzkB"]),
        )
    except (KeyError, ValueError, TypeError) as error:
        raise UserError(f"{path}: [architecture_presets] lacks or misspells {error}") from error


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise UserError(f"{path}: cannot read ({error.strerror or error}); check the path") from error
