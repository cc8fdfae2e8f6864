"""What no single field can get wrong: rules between the fields of a descriptor."""

from collections.abc import Iterator, Sequence
from difflib import get_close_matches

from hwsim.target.document import TargetDocument
from hwsim.target.parts import Memory

Problem = tuple[str, str]
"""Dotted path, and what is wrong there."""


def cross_check(target: TargetDocument) -> list[Problem]:
    """All broken rules, in the order of the file."""
    return [*_engines(target), *_memories(target), *_contexts(target), *_launch(target), *_energy(target)]


def did_you_mean(word: str, known: Sequence[str]) -> str:
    """``; did you mean 'x'?`` where something known is near, else nothing."""
    near = get_close_matches(word.lower(), known, n=1, cutoff=0.6)
    return f"; did you mean '{near[0]}'?" if near else ""


def _repeated(names: list[str], path: str) -> Iterator[Problem]:
    for index, name in enumerate(names):
        if name in names[:index]:
            yield f"{path}.{index}.name", f"the name '{name}' is taken; give each a name of its own"


def _engines(target: TargetDocument) -> Iterator[Problem]:
    yield from _repeated([engine.name for engine in target.engines], "engines")
    for index, engine in enumerate(target.engines):
        rates = engine.rates()
        if not rates:
            yield f"engines.{index}", "no pair of widths fits one fusion unit; raise widest_bits"
            continue
        widest = max(weight for weight, _ in rates)
        for position, bits in enumerate(engine.packed_weight_bits):
            if bits >= widest:
                yield (
                    f"engines.{index}.packed_weight_bits.{position}",
                    f"must be narrower than the widest native weight ({widest} bits)",
                )


def is_dram(memory: Memory, outermost: bool) -> bool:
    """Whether a memory is main memory or flash, said or by its place."""
    return memory.kind in ("dram", "flash") or (memory.kind is None and outermost)


def _memories(target: TargetDocument) -> Iterator[Problem]:
    memories = target.memories
    yield from _repeated([memory.name for memory in memories], "memories")
    seen_shared = ""
    for index, memory in enumerate(memories):
        path = f"memories.{index}"
        outermost = index == len(memories) - 1
        if memory.bandwidth is not None and memory.bytes_per_cycle is not None:
            yield f"{path}.bytes_per_cycle", "give bandwidth or bytes_per_cycle, not both"
        if memory.bytes is None and not outermost:
            yield f"{path}.bytes", "required field is missing (only the outermost memory may leave it out)"
        if memory.bandwidth is None and memory.bytes_per_cycle is None and is_dram(memory, outermost):
            yield (
                f"{path}.bandwidth",
                "required field is missing (the outermost memory and all dram or flash need it)",
            )
        if not memory.shared and seen_shared:
            yield (
                f"{path}.shared",
                f"memories go from the engines outwards: one per unit cannot follow shared '{seen_shared}'",
            )
        if memory.shared:
            seen_shared = memory.name
    for tensor in ("weights", "activations"):
        if not any(tensor in memory.holds for memory in memories):
            yield "memories", f"no memory holds {tensor}"


def _contexts(target: TargetDocument) -> Iterator[Problem]:
    if target.contexts is None:
        return
    carried = target.host_link is not None and "weights" in target.host_link.carries
    places = sum("weights" in memory.holds for memory in target.memories) + carried
    if places < 2:
        yield (
            "contexts",
            "needs a memory on the device that holds weights and one outside it to load them from",
        )


def _launch(target: TargetDocument) -> Iterator[Problem]:
    if target.launch.instructions is not None and target.host_link is None:
        yield (
            "launch.instructions",
            "cross the host link in every inference: give a host_link, or leave them out",
        )


def _energy(target: TargetDocument) -> Iterator[Problem]:
    names = [memory.name for memory in target.memories]
    if target.host_link is not None:
        if target.host_link.name in names:
            yield "host_link.name", f"the name '{target.host_link.name}' is taken by a memory"
        names.append(target.host_link.name)
    for name in target.energy.byte_pj:
        if name not in names:
            hint = did_you_mean(name, names) or f"; known: {', '.join(names)}"
            yield f"energy.byte_pj.{name}", f"no such memory{hint}"
    static, power = target.energy.static_w, target.power_w
    if static is not None and power is not None and static > power:
        yield "energy.static_w", f"must not exceed power_w ({power:g})"
