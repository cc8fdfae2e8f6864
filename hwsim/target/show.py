"""A descriptor as tables for the terminal: every value in use, and where it comes from."""

from collections.abc import Iterator

from rich.table import Table
from rich.text import Text

from hwsim.target.engines import PRODUCTS
from hwsim.target.parts import VECTOR_KINDS
from hwsim.target.schema import Target
from hwsim.units import format_quantity

# The best source among the fields of a part comes first.
_MARKS = {"measured": " (measured)", "given": "", "derived": " (derived)", "default": " (default)"}


def tables(target: Target) -> Iterator[Table | Text]:
    """Head, engines, memories, other costs."""
    yield Text(f"{target.name} — {target.description or 'no description'}")
    yield _head(target)
    yield _engines(target)
    yield _memories(target)
    yield _vector(target)


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index == 0 else "right")
    return table


def _head(target: Target) -> Table:
    sources = target.provenance()

    def mark(path: str) -> str:
        found = {source for name, source in sources.items() if name == path or name.startswith(f"{path}.")}
        return next(
            _MARKS[source] for source in ("measured", "given", "derived", "default") if source in found
        )

    def time(cycles: float) -> str:
        return f"{format_quantity(cycles / target.clock_hz, 'time')} ({cycles:.0f} cycles)" if cycles else "0"

    table = Table(box=None, pad_edge=False, show_header=False)
    floats = target.float_path
    static = f"{format_quantity(target.static_w, 'power') if target.static_w else '0'}"
    for name, value in (
        ("class", target.device_class),
        ("clock", format_quantity(target.clock_hz, "frequency")),
        ("units", f"{target.unit_count} x {target.units.name}"),
        ("power", format_quantity(target.power_w, "power") if target.power_w else "not given"),
        ("static power", static + mark("energy.static_w")),
        ("barrier", time(target.sync_cycles) + mark("sync")),
        ("layer launch", time(target.layer_launch_cycles) + mark("launch.per_layer")),
        ("inference launch", time(target.inference_launch_cycles) + mark("launch.per_inference")),
        ("software", "not given" if target.software is None else target.software.stack),
        ("floats", _floats(target) + ("" if floats is None else mark("float_fallback"))),
        ("host link", _link(target)),
        ("TVM", "no code generator" if target.tvm is None else str(target.tvm.target.get("kind", "?"))),
        ("sha256", target.sha256),
    ):
        table.add_row(name, value)
    return table


def _floats(target: Target) -> str:
    path = target.float_path
    return "none" if path is None else f"{path.macs_per_cycle:g} MAC/cycle/unit at {path.bits} bits"


def _link(target: Target) -> str:
    link = target.host_link
    if link is None:
        return "none"
    return f"{link.name}, {format_quantity(link.bandwidth, 'count')}B/s, carries {', '.join(link.carries)}"


def _engines(target: Target) -> Table:
    table = _table(
        "Engines (of each unit)", "name", "kind", "serves", "MAC/cycle", "dense TOPS", "efficiency"
    )
    sources = target.provenance()
    for index, engine in enumerate(target.engines):
        rates = engine.rates()
        shown = sorted(rates.items(), key=lambda item: (-item[0][0] * item[0][1], item[0]))[:4]
        scale = 2e-12 * target.clock_hz * target.unit_count
        table.add_row(
            engine.name,
            engine.kind,
            "all" if set(engine.serves) == set(PRODUCTS) else ", ".join(engine.serves),
            "\n".join(f"w{w}a{a} {rate:g}" for (w, a), rate in shown),
            "\n".join(f"{rate * scale:.3g}" for _, rate in shown),
            f"{target.engine_efficiency(engine):g}{_MARKS[sources[f'engines.{index}.efficiency']]}",
        )
    return table


def _memories(target: Target) -> Table:
    title = "Memories (from the engines outwards)"
    table = _table(title, "name", "kind", "size", "bandwidth", "bytes/cycle", "of", "pJ/byte", "holds")
    sources = target.provenance()
    for index, level in enumerate(target.levels):
        said = [sources.get(f"memories.{index}.{field}") for field in ("bandwidth", "bytes_per_cycle")]
        table.add_row(
            level.name,
            level.kind,
            format_quantity(level.capacity, "bytes"),
            f"{level.bytes_per_cycle * target.clock_hz / 1e9:.4g} GB/s",
            f"{level.bytes_per_cycle:.4g}{'' if 'given' in said else ' (derived)'}",
            "all units" if level.shared else "one unit",
            f"{level.byte_pj:.3g}{'' if level.name in target.energy.byte_pj else ' (derived)'}",
            ", ".join(sorted(level.holds)),
        )
    return table


def _vector(target: Target) -> Table:
    mark = "" if target.vector is not None else " (derived)"
    table = _table(f"Vector work, elements a cycle of one unit{mark}", *VECTOR_KINDS)
    table.add_row(*(f"{target.vector_rate(kind):.3g}" for kind in VECTOR_KINDS))
    return table
