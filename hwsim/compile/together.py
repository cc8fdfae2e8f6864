"""Term split: the terms of one expanded layer on different cores, in one kernel.

Each branch is a sequence of products that one core executes; the branches run side by side. A branch writes float
partial sums of its own, which a following elementwise kernel adds in the order of the terms, so that the
result has the same bits as on one core.
"""
# pyright: basic
# TVM ships no type stubs for its expression classes.

from dataclasses import dataclass

from hwsim.compile.builder import Code, PrimFunc, tirx
from hwsim.compile.isa import Isa
from hwsim.compile.product import Product, writer_for
from hwsim.compile.product_code import ProductCode


@dataclass(frozen=True)
class Together:
    """Branches of products, one core for each branch."""

    branches: tuple[tuple[Product, ...], ...]

    def arguments(self, isa: Isa) -> list[tuple[str, int, str]]:
        """Name, elements and dtype of every parameter, in order: those of the products, one after another."""
        products = [product for branch in self.branches for product in branch]
        return [
            (f"p{index}_{name}", size, dtype)
            for index, product in enumerate(products)
            for name, size, dtype in product.arguments(isa)
        ]

    def build(self, name: str, isa: Isa) -> PrimFunc:
        """The kernel for ``isa``."""
        code, writers, index = Code(name, isa.device), list[list[ProductCode]](), 0
        for branch in self.branches:
            writers.append([])
            for product in branch:
                machine = product.machine(isa)
                writers[-1].append(writer_for(machine)(code, product, machine, f"p{index}_"))
                index += 1
        with code.loop(len(self.branches), parallel=True) as core:
            for number, branch_writers in enumerate(writers):
                with code.when(core == tirx.const(number, "int32")):
                    for writer in branch_writers:
                        writer.write()
        return code.function()


def balanced(costs: list[int], cores: int) -> list[list[int]]:
    """Terms for each core: largest first, each to the core with the least work; term 0 is on core 0."""
    loads, found = [0] * cores, [list[int]() for _ in range(cores)]
    for term in sorted(range(len(costs)), key=lambda index: (index != 0, -costs[index])):
        core = loads.index(min(loads))
        loads[core] += costs[term]
        found[core].append(term)
    return [sorted(terms) for terms in found if terms]
