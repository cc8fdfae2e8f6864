"""Closed forms of a systolic array: output, weight and input stationary.

``compat="scalesim"`` reproduces SCALE-Sim 3.0.0 (Samajdar et al., ISPASS 2020, and its v3 release) figure
for figure, deviations included; the default is the corrected model. What is corrected, and why:

* output stationary charges the drain of the array, 2R + C + K − 2 per fold (the paper's formula; the
  published code charges R + C + K − 2);
* the total is a number of cycles, not the index of the last one (off by one);
* output-stationary SRAM writes count each output once, not R + C more per fold;
* weight and input stationary count the read-back of partial sums, and send only finished outputs to DRAM;
* window elements beyond the edge of the input are not read from SRAM;
* compute utilisation divides by the length of the fold, without adding the skew a second time.

A GEMM (M × K)·(K × N) stands for a convolution with M output pixels, N filters and a window of K.
"""

from dataclasses import dataclass, field
from typing import Literal

Dataflow = Literal["os", "ws", "is"]
Compat = Literal["scalesim"]
DATAFLOWS: tuple[Dataflow, ...] = ("os", "ws", "is")


@dataclass(frozen=True)
class SystolicLayer:
    """One product as the array sees it.

    ``input_addresses`` is how many distinct inputs it touches, ``window_reads`` how many window elements lie
    inside the input (both M·K for a plain GEMM; fewer where windows overlap or hang over the edge).
    """

    m: int
    n: int
    k: int
    input_addresses: int
    window_reads: int
    name: str = ""

    @property
    def macs(self) -> int:
        """Multiply-accumulates, padding included, as the simulator's utilisation counts them."""
        return self.m * self.n * self.k

    @classmethod
    def gemm(cls, m: int, n: int, k: int, name: str = "") -> "SystolicLayer":
        """A plain matrix product."""
        return cls(m, n, k, m * k, m * k, name)

    @classmethod
    def conv(
        cls,
        input_hw: tuple[int, int],
        kernel: tuple[int, int],
        channels: int,
        filters: int,
        stride: tuple[int, int],
        name: str = "",
    ) -> "SystolicLayer":
        """A convolution without padding; an output size that does not divide is rounded up."""
        extents = [
            _axis(size, window, step) for size, window, step in zip(input_hw, kernel, stride, strict=True)
        ]
        (out_h, touched_h, reads_h), (out_w, touched_w, reads_w) = extents
        return cls(
            m=out_h * out_w,
            n=filters,
            k=kernel[0] * kernel[1] * channels,
            input_addresses=touched_h * touched_w * channels,
            window_reads=reads_h * reads_w * channels,
            name=name,
        )


def _axis(size: int, window: int, step: int) -> tuple[int, int, int]:
    """Output positions, distinct inputs touched and window elements inside the input, along one axis."""
    positions = -(-(size - window + step) // step)
    inside = [max(0, min(window, size - index * step)) for index in range(positions)]
    overlapping = step < window
    touched = min(size, (positions - 1) * step + window) if overlapping else sum(inside)
    return positions, touched, sum(inside)


@dataclass(frozen=True)
class SystolicCounts:
    """What one layer costs on one array: cycles, utilisation in percent, words moved."""

    cycles: int
    row_folds: int
    column_folds: int
    fold_cycles: int
    overall_utilisation: float
    mapping_efficiency: float
    compute_utilisation: float
    sram_input_reads: int
    sram_filter_reads: int
    sram_output_writes: int
    sram_output_reads: int
    dram_input_reads: int
    dram_filter_reads: int
    dram_output_writes: int
    provenance: str = field(default="", compare=False)


def mapped_dimensions(layer: SystolicLayer, dataflow: Dataflow) -> tuple[int, int, int]:
    """Dimension laid on the rows, on the columns, and through time."""
    if dataflow == "os":
        return layer.m, layer.n, layer.k
    if dataflow == "ws":
        return layer.k, layer.n, layer.m
    return layer.k, layer.m, layer.n


def systolic_counts(
    layer: SystolicLayer, rows: int, columns: int, dataflow: Dataflow, compat: Compat | None = None
) -> SystolicCounts:
    """Cycles, utilisation, SRAM and DRAM counts of one layer whose operands fit in the SRAMs."""
    on_rows, on_columns, through_time = mapped_dimensions(layer, dataflow)
    row_folds, column_folds = -(-on_rows // rows), -(-on_columns // columns)
    folds = row_folds * column_folds
    as_published = compat == "scalesim"
    undrained = as_published and dataflow == "os"
    fold_cycles = through_time + (1 if undrained else 2) * rows + columns - 2
    cycles = folds * fold_cycles - (1 if as_published else 0)
    mapping = (on_rows / (row_folds * rows)) * (on_columns / (column_folds * columns))
    skewed_twice = as_published and dataflow != "os"
    compute = mapping * through_time / (fold_cycles + (columns - 1 if skewed_twice else 0))
    window_reads = layer.m * layer.k if as_published else layer.window_reads
    input_reads, filter_reads, output_writes = _sram_traffic(
        layer, window_reads, dataflow, row_folds, column_folds
    )
    outputs = layer.m * layer.n
    if as_published and dataflow == "os":
        output_writes += folds * (rows + columns)
    spills = dataflow != "os"
    return SystolicCounts(
        cycles=cycles,
        row_folds=row_folds,
        column_folds=column_folds,
        fold_cycles=fold_cycles,
        overall_utilisation=100 * layer.macs / (cycles * rows * columns),
        mapping_efficiency=100 * mapping,
        compute_utilisation=100 * compute,
        sram_input_reads=input_reads,
        sram_filter_reads=filter_reads,
        sram_output_writes=output_writes,
        sram_output_reads=0 if as_published or not spills else outputs * (row_folds - 1),
        dram_input_reads=layer.input_addresses,
        dram_filter_reads=layer.k * layer.n,
        dram_output_writes=outputs * row_folds if as_published and spills else outputs,
        provenance=f"{dataflow} closed form, {'SCALE-Sim 3.0.0' if as_published else 'corrected'}: "
        f"{row_folds}×{column_folds} folds × {fold_cycles} cycles",
    )


def _sram_traffic(
    layer: SystolicLayer, window_reads: int, dataflow: Dataflow, row_folds: int, column_folds: int
) -> tuple[int, int, int]:
    """Input reads, filter reads and output writes of the array's edge SRAMs."""
    weights, outputs = layer.k * layer.n, layer.m * layer.n
    if dataflow == "os":
        return window_reads * column_folds, weights * row_folds, outputs
    if dataflow == "ws":
        return window_reads * column_folds, weights, outputs * row_folds
    return window_reads, weights * column_folds, outputs * row_folds


@dataclass(frozen=True)
class CalcModeReport:
    """SCALE-Sim's bandwidth-estimation report: figures that follow from its constants, not from need."""

    cycles_with_prefetch: int
    sram_input_bandwidth: float
    sram_filter_bandwidth: float
    sram_output_bandwidth: float
    dram_input_bandwidth: float
    dram_filter_bandwidth: float
    dram_output_bandwidth: float


def scalesim_calc_report(counts: SystolicCounts, columns: int, sram_bytes: int) -> CalcModeReport:
    """CALC-mode bandwidths and prefetch time for operands that fit in half of an SRAM of ``sram_bytes``.

    The buffer is cut in 100 sets; a whole set is fetched at ten words a cycle even if it is not full.
    """
    per_set = sram_bytes // 100

    def prefetch(words: int) -> int:
        return -(-(-(-words // per_set) * per_set) // 10)

    input_cycles, filter_cycles = prefetch(counts.dram_input_reads), prefetch(counts.dram_filter_reads)
    output_cycles = -(-counts.dram_output_writes // columns)
    return CalcModeReport(
        cycles_with_prefetch=counts.cycles + max(input_cycles, filter_cycles) + output_cycles - 1,
        sram_input_bandwidth=counts.sram_input_reads / counts.cycles,
        sram_filter_bandwidth=counts.sram_filter_reads / counts.cycles,
        sram_output_bandwidth=counts.sram_output_writes / counts.cycles,
        dram_input_bandwidth=counts.dram_input_reads / input_cycles,
        dram_filter_bandwidth=counts.dram_filter_reads / filter_cycles,
        dram_output_bandwidth=counts.dram_output_writes / output_cycles,
    )
