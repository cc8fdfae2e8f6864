"""Results written over an operand: a residual that nobody reads later gives its memory to the sum.

The sum of a residual block is added in the epilogue of a product, element by element. Where the residual lies exactly
as the result will, and this is its last reader, both are one buffer: less memory, and no line of a new buffer has
to be fetched from a slower level only to be overwritten.
"""
# pyright: basic

from dataclasses import replace

from hwsim.compile.product import Product
from hwsim.compile.program import Buffer, Program, Step


def reuse_operands(program: Program) -> None:
    """Let products of ``program`` write over operands of their epilogue where nothing else can notice."""
    first: dict[Buffer, int] = {}
    last: dict[Buffer, int] = {}
    for index, step in enumerate(program.steps):
        for buffer in step.buffers:
            first.setdefault(buffer, index)
            last[buffer] = index
    for port in program.outputs:
        last[port.buffer] = len(program.steps)
    merged: dict[Buffer, Buffer] = {}
    steps: list[Step] = []
    for index, step in enumerate(program.steps):
        made, out = step, step.buffers[-1]
        operand = _operand(step) if first[out] == index and out.kind == "work" else None
        if operand is not None and last[step.buffers[operand[1]]] == index:
            number, place = operand
            assert isinstance(step.kernel, Product)
            merged[out] = merged.get(step.buffers[place], step.buffers[place])
            kept = (*step.buffers[:place], *step.buffers[place + 1 :])
            made = replace(
                step,
                kernel=replace(step.kernel, in_place=number),
                buffers=kept,
                written=(len(kept) - 1,),
            )
        steps.append(replace(made, buffers=tuple(merged.get(b, b) for b in made.buffers)))
    program.steps = steps
    program.outputs = [replace(port, buffer=merged.get(port.buffer, port.buffer)) for port in program.outputs]


def _operand(step: Step) -> tuple[int, int] | None:
    """An operand that lies where the result will: its number, and its place among the step's buffers."""
    product, out = step.kernel, step.buffers[-1]
    if not isinstance(product, Product) or product.out_dtype != "float32" or product.raw:
        return None
    rows, batch = tuple(s for _, _, s in product.dims), tuple(s for _, _, s in product.batch)
    for number, operand in enumerate(product.operands):
        place = len(step.buffers) - 1 - len(product.operands) + number
        buffer = step.buffers[place]
        alike = (operand.offset, operand.rows, operand.batch) == (product.out_offset, rows, batch)
        dense = operand.column == 1 and not operand.packed
        own = buffer.kind == "work" and step.buffers.count(buffer) == 1
        if alike and dense and own and (buffer.elements, buffer.dtype) == (out.elements, out.dtype):
            return number, place
    return None
