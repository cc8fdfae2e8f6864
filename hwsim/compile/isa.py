"""What a machine offers to a kernel: vector lanes, the integer dot product, the register tile.

The kernels are written once and read everything machine-specific from an `Isa`. Adding a machine means adding
one entry here and, if its dot product is new, one branch in `dot`.

    vnni512   AVX512-VNNI vpdpbusd: 16 lanes, 4 products a lane, u8 x s8, no saturation
    vnni256   the same in 256 bits (AVX-VNNI, AVX512-VNNI+VL)
    avx2      vpmovsxbw + vpmaddwd: 8 lanes, 2 products a lane (vpmaddubsw would saturate, so it is not used)
    sdot      Armv8.2 dot product: 4 lanes, 4 products; s8 x s8, activations flipped by 0x80
    usdot     the Armv8.6 (i8mm) form of it: u8 x s8, nothing to flip
    usmmla    the matrix instruction of i8mm: two rows, two columns, 8 deep (`row_pairs`); chosen by `Isa.dense`
    dp4a      CUDA: four products of bytes in one instruction of a thread; activations flipped as for sdot
    mma       CUDA: tensor cores, 32 products deep, u8 x s8 (`cuda_tensor_core`); chosen by `Isa.dense`
    popcount  AND and popcount of words of bits (`serial`), for weights of 1 and 2 bits; chosen by `Isa.serial_pairs`
    fma       float32 multiply-add, for the layers a plan leaves in float
    mul       widening multiply-add in whatever vectors LLVM finds (RISC-V V, plain C with one lane)
"""
# pyright: basic
# TVM ships no type stubs for its expression classes.

import platform
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

from hwsim.compile.builder import broadcast, tirx, vector
from hwsim.errors import UserError
from hwsim.runtime.verify import grants_tiles

WORD, ROUNDED = "hwsim_word", "hwsim_rounded"  # functions in the prelude of the CUDA source
Dot = Literal[
    "vnni512", "vnni256", "avx2", "sdot", "usdot", "usmmla", "dp4a", "mma", "popcount", "mul", "fma"
]


@dataclass(frozen=True)
class Isa:
    """One machine as the kernels see it.

    Attributes:
        name: Name on the command line and in the manifest.
        dot: Which integer dot product is used (see the module docstring).
        lanes: int32 lanes of one vector; also the width of one output slot.
        depth: Products summed in one lane by one instruction; K is packed in steps of it.
        tile_rows: Rows of activations held in registers at once.
        tile_vectors: Vectors of outputs held in registers at once.
        target: TVM target dictionary.
        compiler: Cross compiler that links the artifact, None for the host's own.
        emulator: Command that runs a foreign binary on this machine, for tests.
        activation_offset: What the dot product subtracts from every code (128 where it is signed).
        matrix_depth: Products summed by one instruction of the matrix unit; 0 where there is none.
        tiles: Whether there are tile registers (`tiles`) beside `dot`.
        serial_pairs: Most pairs of bit planes (weights times activations) for which popcounts beat `dot`.
    """

    name: str
    dot: Dot
    lanes: int
    depth: int
    tile_rows: int
    tile_vectors: int
    target: tuple[tuple[str, Any], ...]
    compiler: str | None = None
    emulator: tuple[str, ...] = ()
    activation_offset: int = 0
    matrix_depth: int = 0
    serial_pairs: int = 0
    tiles: bool = False

    @property
    def permutes(self) -> bool:
        """Whether a vector can take any lanes of two others in one instruction (`permute`)."""
        return self.dot == "vnni512" or (self.dot == "popcount" and self.lanes == 16)

    @property
    def prefetches(self) -> bool:
        """Whether asking for cache lines ahead pays (1 to 4 % of a large product; measured on x86 only)."""
        return self.dot in ("vnni512", "vnni256", "avx2")

    @property
    def sums_words(self) -> bool:
        """Whether one instruction multiplies all four bytes of every lane and adds them to the lane."""
        return self.dot in ("vnni512", "vnni256")

    @property
    def rounds(self) -> bool:
        """Whether vectors convert to the nearest int32 in one instruction (ties to even)."""
        return self.dot in ("vnni512", "vnni256", "avx2")

    @property
    def device(self) -> bool:
        """Whether this is a graphics processor: outer loops become threads."""
        return dict(self.target)["kind"] == "cuda"

    @property
    def panel(self) -> int:
        """Output columns of one weight panel."""
        return self.lanes * self.tile_vectors

    def target_dict(self) -> dict[str, Any]:
        """The TVM target as the dictionary TVM wants."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in self.target}

    def panel_vectors(self, rows: int) -> int:
        """Vectors of a panel: for a single row more than fit a tile, so that many columns hide the latency."""
        most = 4 if self.dot == "usmmla" else 8  # there a row has two registers of weights for each vector
        return self.tile_vectors if rows > 1 else max(self.tile_vectors, most)

    def wide(self) -> "Isa":
        """The variant for activation codes of more than 8 bits: 32-bit products, same vectors."""
        vectors = min(self.tile_vectors, 2)
        return replace(self, dot="mul", depth=1, activation_offset=0, tile_vectors=vectors, tiles=False)

    def dense(self, run: int, taps: int = 1, planes: int = 1) -> "Isa":
        """The variant for a product over ``taps`` runs of ``run`` codes: the matrix unit, if half of it is used.

        It has no accumulators for several planes of activations.
        """
        filled = -(-run // self.matrix_depth) * self.matrix_depth if self.matrix_depth and planes == 1 else 0
        if not filled or run * taps < self.matrix_depth or 2 * run < filled:
            return self
        if not self.device:
            return replace(
                self, dot="usmmla", depth=self.matrix_depth, matrix_depth=0, tile_rows=8, tile_vectors=2
            )
        return replace(
            self, dot="mma", depth=self.matrix_depth, matrix_depth=0, activation_offset=0, tile_vectors=8
        )

    def serial(self) -> "Isa":
        """The variant for bit planes: a word of 32 bits in every lane."""
        return replace(self, dot="popcount", depth=1, activation_offset=0)

    def floating(self) -> "Isa":
        """The variant for layers left in float: float32 multiply-adds in the same tiles."""
        return replace(self, dot="fma", depth=1, activation_offset=0)


def _llvm(**settings: Any) -> tuple[tuple[str, Any], ...]:
    return (("kind", "llvm"), *settings.items())


_AARCH64 = ("qemu-aarch64", "-cpu", "max", "-L", "/usr/aarch64-linux-gnu")
_RISCV64 = ("qemu-riscv64", "-cpu", "rv64,v=true,vlen=128,vext_spec=v1.0", "-L", "/usr/riscv64-linux-gnu")
_RISCV_FEATURES = ("+64bit", "+m", "+a", "+f", "+d", "+c", "+v", "+zvl128b")

ISAS: dict[str, Isa] = {
    isa.name: isa
    for isa in (
        Isa("x86-vnni512", "vnni512", 16, 4, 6, 4, _llvm(mcpu="cascadelake")),
        Isa(
            "x86-vnni512-popcnt", "vnni512", 16, 4, 6, 4,
            _llvm(mcpu="cascadelake", mattr=("+avx512vpopcntdq",)), serial_pairs=4,
        ),
        Isa(
            "x86-amx", "vnni512", 16, 4, 12, 2,
            _llvm(mcpu="cascadelake", mattr=("+amx-tile", "+amx-int8")), tiles=True,
        ),
        Isa("x86-avxvnni", "vnni256", 8, 4, 4, 2, _llvm(mcpu="alderlake")),
        Isa("x86-avx2", "avx2", 8, 2, 4, 2, _llvm(mcpu="haswell"), serial_pairs=4),
        Isa("x86-generic", "mul", 4, 1, 3, 2, _llvm(mcpu="x86-64"), serial_pairs=8),
        Isa(
            "aarch64-dotprod", "sdot", 4, 4, 6, 4,
            _llvm(mtriple="aarch64-linux-gnu", mcpu="generic", mattr=("+neon", "+dotprod")),
            "aarch64-linux-gnu-gcc", _AARCH64, 128,
        ),
        Isa(
            "aarch64-i8mm", "usdot", 4, 4, 6, 4,
            _llvm(mtriple="aarch64-linux-gnu", mcpu="generic", mattr=("+neon", "+dotprod", "+i8mm")),
            "aarch64-linux-gnu-gcc", _AARCH64, matrix_depth=8,
        ),
        Isa(
            "aarch64-generic", "mul", 4, 1, 4, 4,
            _llvm(mtriple="aarch64-linux-gnu", mcpu="generic", mattr=("+neon",)),
            "aarch64-linux-gnu-gcc", _AARCH64, serial_pairs=8,
        ),
        Isa(
            "riscv64-v", "mul", 4, 1, 4, 4,
            _llvm(
                mtriple="riscv64-unknown-linux-gnu", mcpu="generic-rv64", mabi="lp64d", mattr=_RISCV_FEATURES
            ),
            "riscv64-linux-gnu-gcc", _RISCV64, serial_pairs=4,
        ),
        Isa("c", "mul", 1, 1, 2, 4, (("kind", "c"),), serial_pairs=4),
        Isa(
            "cuda", "dp4a", 1, 4, 4, 4, (("kind", "cuda"), ("arch", "sm_75")),
            activation_offset=128, matrix_depth=32,
        ),
    )
}  # fmt: skip


@cache
def _host_flags() -> frozenset[str]:
    """CPU feature flags of this machine, as the kernel lists them."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return frozenset()
    lines = (line.partition(":")[2] for line in text.splitlines() if line.startswith(("flags", "Features")))
    return frozenset(next(lines, "").split())


@cache
def host_isa() -> Isa:
    """The best entry this machine can execute."""
    flags = _host_flags()
    if platform.machine() == "aarch64":
        best = "i8mm" if "i8mm" in flags else "dotprod" if "asimddp" in flags else "generic"
        return ISAS[f"aarch64-{best}"]
    if platform.machine() in ("x86_64", "AMD64"):
        if {"avx512_vnni", "amx_tile", "amx_int8"} <= flags and grants_tiles():
            return ISAS["x86-amx"]
        if "avx512_vnni" in flags:
            return ISAS["x86-vnni512-popcnt" if "avx512_vpopcntdq" in flags else "x86-vnni512"]
        if "avx_vnni" in flags:
            return ISAS["x86-avxvnni"]
        return ISAS["x86-avx2" if "avx2" in flags else "x86-generic"]
    raise UserError(f"host machine {platform.machine()!r}: no kernels for it; name a target with --isa")


def named_isa(name: str) -> Isa:
    """Look an entry up by name; ``host`` is this machine."""
    if name == "host":
        return host_isa()
    if name not in ISAS:
        raise UserError(f"--isa {name!r}: unknown; choose one of host, {', '.join(ISAS)}")
    return ISAS[name]


def load_activations(isa: Isa, codes: Any, offset: Any) -> Any:
    """`isa.depth` consecutive codes at ``offset`` as one int32 for `dot`."""
    if isa.dot in ("vnni512", "vnni256", "usdot"):
        return tirx.reinterpret("int32", codes.vload([offset], "uint8x4"))
    if isa.dot == "sdot":
        flip = tirx.const(-0x7F7F7F80, "int32")  # 0x80808080: turns u8 into s8 = u8 - 128
        return tirx.reinterpret("int32", codes.vload([offset], "uint8x4")) ^ flip
    if isa.dot == "dp4a":
        return tirx.call_pure_extern("int32", WORD, codes.data, offset) ^ tirx.const(-0x7F7F7F80, "int32")
    if isa.dot == "fma":
        return codes.vload([offset])
    first = codes.vload([offset]).astype("int32")
    if isa.dot == "avx2":
        return first | (codes.vload([offset + 1]).astype("int32") << 16)
    return first


def load_weights(isa: Isa, weights: Any, offset: Any) -> Any:
    """One vector of packed weights."""
    if isa.dot == "dp4a":
        return tirx.reinterpret("int8x4", tirx.call_pure_extern("int32", WORD, weights.data, offset))
    return weights.vload([offset], vector(weights.dtype, isa.lanes * isa.depth))


def dot(isa: Isa, acc: Any, activations: Any, weights: Any) -> Any:
    """``acc + sum of isa.depth products`` in every lane."""
    lanes = isa.lanes
    many = broadcast(activations, lanes)
    if isa.dot == "fma":
        return acc + weights * many
    if isa.sums_words:
        return dot_words(isa, acc, many, weights)
    if isa.dot in ("sdot", "usdot"):
        bytes_ = tirx.reinterpret("int8x16" if isa.dot == "sdot" else "uint8x16", many)
        name = f"llvm.aarch64.neon.{isa.dot}.v4i32.v16i8"
        return tirx.call_llvm_pure_intrin("int32x4", name, acc, bytes_, weights)
    if isa.dot == "usmmla":
        bytes_ = tirx.reinterpret("uint8x16", broadcast(activations, 2))
        halves = [tirx.Shuffle([weights], list(range(first, first + 16))) for first in (0, 16)]
        zero = broadcast(tirx.const(0, "int32"), 4)
        return acc + pair_lanes([matrix_dot(zero, bytes_, half) for half in halves], 0)
    if isa.dot == "dp4a":
        word = tirx.reinterpret("int32", weights)
        return tirx.call_pure_extern("int32", "__dp4a", word, activations, acc)
    if isa.dot == "avx2":
        pairs = tirx.reinterpret("int16x16", many)
        wide = weights.astype("int16x16")
        return acc + tirx.call_llvm_pure_intrin("int32x8", "llvm.x86.avx2.pmadd.wd", wide, pairs)
    return acc + weights.astype(vector("int32", lanes)) * many


def matrix_dot(acc: Any, rows: Any, columns: Any) -> Any:
    """``acc`` (2 x 2) and the products of two rows of 8 unsigned codes with two columns of 8 weights."""
    name = "llvm.aarch64.neon.usmmla.v4i32.v16i8"
    return tirx.call_llvm_pure_intrin("int32x4", name, acc, rows, columns)


def pair_lanes(vectors: list[Any], half: int) -> Any:
    """Four lanes, the first (or last) two of each of two vectors: between rows and 2 x 2 blocks, both ways."""
    return tirx.Shuffle(vectors, [0, 1, 4, 5] if half == 0 else [2, 3, 6, 7])


def popcount(isa: Isa, value: Any, lanes: int | None = None) -> Any:
    """Ones in every 32-bit lane of ``value``."""
    if dict(isa.target)["kind"] == "llvm":
        kind = vector("int32", lanes or isa.lanes)
        return tirx.call_llvm_pure_intrin(kind, "llvm.ctpop", value)
    return tirx.call_pure_extern("int32", "__builtin_popcount", value)


def dot_words(isa: Isa, acc: Any, activations: Any, weights: Any) -> Any:
    """``acc`` plus the four products u8 x s8 of the bytes of every int32 of ``activations`` (`Isa.sums_words`)."""
    name = f"llvm.x86.avx512.vpdpbusd.{isa.lanes * 32}"
    bytes_ = tirx.reinterpret(f"uint8x{isa.lanes * 4}", activations)
    return tirx.call_llvm_pure_intrin(vector("int32", isa.lanes), name, acc, bytes_, weights)


def nearest(isa: Isa, value: Any) -> Any:
    """float32 to the nearest int32, ties to even (`Isa.rounds`)."""
    return tirx.call_llvm_pure_intrin(vector("int32", isa.lanes), "llvm.lrint", value)


def permute(first: Any, lanes: Any, second: Any) -> Any:
    """int32 lanes of two vectors: 0..15 name the first, 16..31 the second (vpermt2d; 16 lanes only)."""
    return tirx.call_llvm_pure_intrin("int32x16", "llvm.x86.avx512.vpermi2var.d.512", first, lanes, second)


def rounded(isa: Isa, value: Any) -> Any:
    """``value`` rounded here: without this LLVM contracts the product and a following addition to one rounding.

    The C generator has no such mark; its files ask for ``-ffp-contract=off``.
    """
    kind = dict(isa.target)["kind"]
    if kind == "cuda":
        return tirx.call_pure_extern("float32", ROUNDED, value)
    if kind != "llvm":
        return value
    kind = vector("float32", isa.lanes)
    return tirx.call_llvm_pure_intrin(kind, "llvm.arithmetic.fence", value)
