"""From a target descriptor to the kernels' tables of numbers, with the field each number came from."""

from dataclasses import replace
from functools import lru_cache
from typing import Any

from hwsim.simulate.machine import Engine, EngineKind, Level, Machine
from hwsim.target.engines import AnyEngine
from hwsim.target.parts import FUSED_KINDS, VECTOR_KINDS
from hwsim.target.schema import Target

# Accelerators that a compiler programs ahead fetch the next layer's weights early; kernels of a CPU or GPU do
# not, and a context runs when it is loaded.
PREFETCHING_CLASSES = frozenset({"mcu_npu", "edge_tpu", "edge_npu", "dsp_npu", "fpga", "asic"})
KINDS: dict[str, EngineKind] = {
    "simd": "simd",
    "bit_serial": "simd",
    "systolic": "systolic",
    "bit_composable": "bit_composable",
}


def machine_from_target(target: Target) -> Machine:
    """The device as the kernels see it; built once for each descriptor."""
    return _machine(target.sha256, _Held(target))


class _Held:
    """Carries the target past the cache, which keys on its hash alone."""

    def __init__(self, target: Target) -> None:
        self.target = target

    def __hash__(self) -> int:
        return 0

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Held)


@lru_cache(maxsize=64)
def _machine(sha256: str, held: _Held) -> Machine:
    target = held.target
    engines = [_engine(target, index, engine) for index, engine in enumerate(target.engines)]
    levels, link_cycles = _levels(target)
    engines += _float_engine(target)
    return Machine(
        name=target.name,
        clock_hz=target.clock_hz,
        units=target.unit_count,
        engines=tuple(engines),
        levels=levels,
        vector_rates={kind: target.vector_rate(kind) for kind in VECTOR_KINDS},
        vector_bits=target.vector.bits if target.vector else None,
        vector_row_cycles={str(kind): n for kind, n in target.vector.row_cycles.items()}
        if target.vector
        else {},
        fused_kinds=frozenset(target.vector.fused if target.vector else FUSED_KINDS),
        vector_pj=target.vector_pj,
        launch_cycles=target.layer_launch_cycles,
        instruction_bytes=target.launch.instructions or 0.0,
        overlaps_launches=target.launch.overlaps,
        **_contexts(target),
        sync_cycles=target.sync_cycles,
        invocation_cycles=target.inference_launch_cycles,
        link_bytes_per_cycle=link_cycles[0],
        link_latency_cycles=link_cycles[1],
        static_w=target.static_w,
        independent=target.units.independent,
        prefetch=target.device_class in PREFETCHING_CLASSES and target.contexts is None,
        dense_packing=target.packing == "dense",
        float_bits=target.float_path.bits if target.float_path else 32,
        provenance=dict(target.provenance()),
    )


def _contexts(target: Target) -> dict[str, Any]:
    contexts = target.contexts
    if contexts is None:
        return {}
    return {
        "context_operators": contexts.operators,
        "context_load_cycles": contexts.load.at(target.clock_hz),
        "operator_parts": {str(kind): count for kind, count in contexts.parts.items()},
    }


def _engine(target: Target, index: int, engine: AnyEngine) -> Engine:
    tile = engine.dimensions
    rates = engine.rates()
    return Engine(
        name=engine.name,
        kind=KINDS[engine.kind],
        serves=frozenset(engine.serves),
        rates=rates,
        rows=getattr(engine, "rows", 1),
        columns=getattr(engine, "columns", 1),
        dataflow=getattr(engine, "dataflow", "ws"),
        tile=(tile.m, tile.n, tile.k),
        pipelined=getattr(engine, "pipelined", False),
        arrays=getattr(engine, "arrays", 1),
        efficiency=target.engine_efficiency(engine),
        startup_cycles=engine.startup_cycles,
        pads_window=getattr(engine, "pads_window", False),
        output_cycles=engine.output_cycles,
        input_cycles=engine.input_cycles,
        packed_weight_bits=frozenset(engine.packed_weight_bits),
        unpack_overhead=engine.unpack_overhead,
        mac_pj={(w, a): target.mac_pj(w, a) for w, a in rates},
        origin=f"engines.{index}",
    )


def _float_engine(target: Target) -> list[Engine]:
    """The float path as one more engine, serving only float layers.

    Where depthwise convolutions have an engine of their own, floats run there too, in lanes as wide as they are. What
    each output costs beside its products (bias, clamp, storing) it costs in floats as well.
    """
    path = target.float_path
    if path is None:
        return []
    width = (path.bits, path.bits)
    main = next((engine for engine in target.engines if "linear" in engine.serves), target.engines[0])
    lanes = next((engine for engine in target.engines if engine.serves == ("depthwise",)), None)
    apart = lanes is not None and (8, 8) in lanes.rates() and "depthwise" in path.serves
    plain = Engine(
        name="float",
        kind="simd",
        serves=frozenset(path.serves) - ({"depthwise"} if apart else set[str]()),
        rates={width: path.macs_per_cycle},
        tile=(1, max(1, min(16, int(path.macs_per_cycle))), 1),
        efficiency=path.efficiency,
        output_cycles=main.output_cycles,
        mac_pj={width: target.float_mac_pj},
        is_float=True,
        origin="float_fallback",
    )
    if not apart or lanes is None:
        return [plain]
    rate = min(path.macs_per_cycle, lanes.rates()[8, 8] * 8 / path.bits)
    tile = (lanes.dimensions.m, lanes.dimensions.n, lanes.dimensions.k)
    own = replace(
        plain,
        serves=frozenset({"depthwise"}),
        rates={width: rate},
        tile=tile,
        efficiency=target.engine_efficiency(lanes),
        output_cycles=lanes.output_cycles,
    )
    return [plain, own]


def _levels(target: Target) -> tuple[tuple[Level, ...], tuple[float, float]]:
    """Memories, the host link as the outermost one where it carries weights, and the link's rate and latency."""
    levels = [
        Level(
            name=level.name,
            capacity=level.capacity,
            bytes_per_cycle=level.bytes_per_cycle * level.efficiency,
            shared=level.shared,
            pj_per_byte=level.byte_pj,
            holds_weights="weights" in level.holds,
            holds_activations="activations" in level.holds,
            latency_cycles=level.latency_cycles,
            burst_bytes=level.burst_bytes,
            exposed=level.exposed,
            origin=f"memories.{index}",
        )
        for index, level in enumerate(target.levels)
    ]
    link = target.host_link
    if link is None:
        return tuple(levels), (0.0, 0.0)
    rate = link.bandwidth / target.clock_hz
    if "weights" in link.carries:
        pj = target.byte_pj(link.name)
        levels.append(
            Level(
                link.name,
                float("inf"),
                rate,
                True,
                pj,
                True,
                False,
                origin="host_link",
            )
        )
    return tuple(levels), (rate, link.latency * target.clock_hz)
