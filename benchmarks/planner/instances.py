"""Planning problems for the benchmarks: ViT-B-like and deep networks, priced by simple closed forms.

Errors follow the uniform residual model, ``mse ~ 4^-bits`` and a factor ``(2^b − 1)^-2`` for every further
order, times a layer sensitivity drawn over four decades; activation error is added. Cycles are the larger of
compute and weight traffic on 8 units, with a synchronisation where units share a layer.
"""

import random
from dataclasses import dataclass
from itertools import pairwise

from planner.tables import (
    Boundary,
    BoundaryRule,
    EnsembleChoice,
    LayerOption,
    LayerTable,
    LiveSet,
    Split,
    Tables,
)

UNITS = 8
SYNC_CYCLES = 600
LAUNCH_CYCLES = 200
MACS_PER_CYCLE = {8: 256, 6: 256, 4: 512, 3: 512, 2: 1024}
BYTES_PER_CYCLE = 64
SHARES = (100, 75, 50, 25)


@dataclass(frozen=True)
class Product:
    """One matrix product of the network."""

    name: str
    kind: str
    m: int
    n: int
    k: int
    batch: int = 1

    @property
    def macs(self) -> int:
        """Multiply-accumulates."""
        return self.batch * self.m * self.n * self.k


def vit_products(blocks: int, width: int = 768, heads: int = 12, tokens: int = 197) -> list[Product]:
    """Products of a vision transformer."""
    found = [Product("patch_embed.proj", "conv2d", tokens - 1, width, 768)]
    for i in range(blocks):
        head = width // heads
        found += [
            Product(f"blocks.{i}.attn.qkv", "linear", tokens, 3 * width, width),
            Product(f"blocks.{i}.attn.qk", "matmul", tokens, tokens, head, heads),
            Product(f"blocks.{i}.attn.av", "matmul", tokens, head, tokens, heads),
            Product(f"blocks.{i}.attn.proj", "linear", tokens, width, width),
            Product(f"blocks.{i}.mlp.fc1", "linear", tokens, 4 * width, width),
            Product(f"blocks.{i}.mlp.fc2", "linear", tokens, width, 4 * width),
        ]
    return [*found, Product("head", "linear", 1, 1000, width)]


def _orders(bits: int) -> list[tuple[int, ...]]:
    found: list[tuple[int, ...]] = [()]
    if bits <= 6:
        found += [(share,) for share in SHARES]
    if bits <= 4:
        found += [(100, 100), (100, 50), (50, 50), (50, 25)]
    return found


def _options(product: Product, sensitivity: float, rng: random.Random) -> list[LayerOption]:
    found: list[LayerOption] = []
    for act_bits in (4, 6, 8):
        act_error = sensitivity * 0.3 * 4.0**-act_bits * rng.uniform(0.8, 1.2)
        for bits in (2, 3, 4, 6, 8):
            schedules = [()] if product.kind == "matmul" else _orders(bits)
            for kept in schedules:
                found += _ways(product, bits, act_bits, kept, sensitivity, act_error, rng)
    return found


def _ways(product, bits, act_bits, kept, sensitivity, act_error, rng) -> list[LayerOption]:
    shares = [1.0, *(share / 100 for share in kept)]
    residual = 4.0**-bits * rng.uniform(0.8, 1.25)
    for share in shares[1:]:
        residual *= 1 - share + share * (2.0**bits - 1) ** -2
    error = sensitivity * residual + act_error
    rate = MACS_PER_CYCLE[max(bits, 2 if act_bits == 2 else bits)] * (2 if act_bits == 4 and bits <= 4 else 1)
    weights = [int(product.n * product.k * bits * share / 8) for share in shares]
    if product.kind == "matmul":
        weights = [0]
    terms = [
        int(max(product.macs * share / rate, weight / BYTES_PER_CYCLE)) + LAUNCH_CYCLES
        for share, weight in zip(shares, weights, strict=True)
    ]
    single = sum(terms)
    cycles = {"single": single, "rows": max(single // UNITS, sum(weights) // BYTES_PER_CYCLE) + SYNC_CYCLES}
    if len(terms) > 1:
        per_term = UNITS // len(terms)
        cycles["terms"] = max(terms) // max(1, per_term) + SYNC_CYCLES + product.m * product.n // 256
    bops = [int(product.macs * bits * act_bits * share) for share in shares]
    energies = [round(b * 0.004 + w * 20.0, 3) for b, w in zip(bops, weights, strict=True)]
    scheme = f"w{bits}a{act_bits}" + (f".o{len(shares)}" if kept else "")
    if kept and set(kept) != {100}:
        scheme += ".g" + "-".join(str(share) for share in kept)
    found = []
    for way, value in cycles.items():
        splits = ()
        if way == "single" and len(terms) > 1:
            lost = sensitivity * 4.0**-bits * 0.02
            splits = tuple(Split(predictors=p, base=1, error=lost * (1 - 1 / p)) for p in (2, 3, 7))
        found.append(
            LayerOption(
                scheme=scheme, weight_bits=bits, act_bits=act_bits, order=len(shares), kept=kept, way=way,
                engine="mac", error=error, cycles=value, energy_pj=round(sum(energies), 3), bops=sum(bops),
                weight_bytes=sum(weights), act_bytes=product.batch * product.m * product.n * act_bits // 8,
                term_cycles=tuple(terms), term_energy_pj=tuple(energies), term_bops=tuple(bops), splits=splits,
            )
        )  # fmt: skip
    return found


def make_tables(
    blocks: int = 12,
    *,
    seed: int = 0,
    boundaries: bool = True,
    ensembles: bool = True,
    limit: int | None = None,
) -> Tables:
    """A vision transformer of ``blocks`` blocks (6 products each), or its first ``limit`` products."""
    rng = random.Random(seed)
    products = vit_products(blocks)[:limit]
    layers = [
        LayerTable(
            name=product.name,
            kind=product.kind,
            macs=product.macs,
            options=tuple(_options(product, 10.0 ** rng.uniform(-3, 1), rng)),
        )
        for product in products
    ]
    names = [product.name for product in products]
    links = []
    if boundaries:
        rules = tuple(
            BoundaryRule(source_act_bits=a, target_act_bits=b, cycles=400)
            for a in (4, 6, 8)
            for b in (4, 6, 8)
            if a != b
        )
        links = [Boundary(source=a, target=b, rules=rules) for a, b in pairwise(names)]
    live = [LiveSet(step=b, layers=(a, b), fixed_bytes=150_000) for a, b in pairwise(names)]
    choices = (2, 3, 7) if ensembles else ()
    vector = 40_000 * blocks // 12
    return Tables(
        model="vit-like",
        target="8 units",
        units=UNITS,
        clock_hz=1e9,
        layers=tuple(layers),
        fixed_cycles=vector,
        boundaries=tuple(links),
        live_sets=tuple(live),
        ensembles=tuple(
            EnsembleChoice(
                predictors=p, fixed_cycles=vector * 4, combine_cycles=2_000, activation_copies=p + 1
            )
            for p in choices
        ),
    )


def middle_limits(tables: Tables, share: float = 0.4) -> dict[str, float]:
    """Latency and weight memory between the least and the most that the options can use."""
    cycles = [[o.cycles for o in layer.options] for layer in tables.layers]
    weights = [[o.weight_bytes for o in layer.options if o.order == 1] for layer in tables.layers]
    least, most = sum(min(row) for row in cycles), sum(sorted(row)[len(row) // 2] for row in cycles)
    light, heavy = sum(min(row) for row in weights), sum(max(row) for row in weights)
    latency = (tables.fixed_cycles + least + share * 0.3 * (most - least)) / tables.clock_hz
    return {"latency": round(latency, 9), "weight_memory": int(light + share * (heavy - light))}
