"""Low-bit storage: n codes of b bits take ceil(n * b / 8) bytes.

Codes are stored as unsigned offsets, least significant bit first, without gaps between codes: a signed b-bit
code c becomes c + 2^(b-1); a binary code -1/+1 becomes 0/1.
"""

import numpy as np
from numpy.typing import NDArray

from quant.errors import QuantError

_CHUNK = 1 << 20
"""Codes unpacked to single bits at a time; a multiple of 8, so that chunks end on byte borders."""


def packed_size(count: int, bits: int) -> int:
    """Bytes of `count` codes."""
    return (count * bits + 7) // 8


def pack(codes: NDArray[np.integer], bits: int) -> NDArray[np.uint8]:
    """Signed codes to a byte string."""
    offsets = _to_offsets(np.asarray(codes).ravel(), bits)
    if bits == 8:
        return offsets.astype(np.uint8)
    if bits == 16:
        return offsets.astype("<u2").view(np.uint8)
    chunks = [_pack_chunk(offsets[i : i + _CHUNK], bits) for i in range(0, len(offsets), _CHUNK)]
    return np.concatenate(chunks) if chunks else np.zeros(0, np.uint8)


def unpack(data: NDArray[np.uint8], bits: int, count: int) -> NDArray[np.integer]:
    """The inverse of `pack`: int8 codes, int16 above 8 bits."""
    if data.dtype != np.uint8 or data.shape != (packed_size(count, bits),):
        raise QuantError(f"packed codes: {data.shape} bytes do not hold {count} codes of {bits} bits")
    if bits == 8:
        offsets = data
    elif bits == 16:
        offsets = data.view("<u2")
    else:
        step = _CHUNK * bits // 8
        parts = [_unpack_chunk(data[i : i + step], bits) for i in range(0, len(data), step)]
        offsets = np.concatenate(parts)[:count] if parts else np.zeros(0, np.uint8)
    return _from_offsets(offsets, bits)


def _to_offsets(codes: NDArray[np.integer], bits: int) -> NDArray[np.integer]:
    if not 1 <= bits <= 16:
        raise QuantError(f"packed codes: {bits} bits; use 1 to 16")
    wide = codes.astype(np.int32)
    if bits == 1:
        wrong, offsets = np.abs(wide) != 1, (wide + 1) >> 1
    else:
        offsets = wide + (1 << (bits - 1))
        wrong = (offsets < 0) | (offsets >= 1 << bits)
    if wrong.any():
        raise QuantError(f"packed codes: {int(wide[wrong][0])} is not a {bits}-bit code")
    return offsets


def _from_offsets(offsets: NDArray[np.integer], bits: int) -> NDArray[np.integer]:
    wide = offsets.astype(np.int32)
    codes = 2 * wide - 1 if bits == 1 else wide - (1 << (bits - 1))
    return codes.astype(np.int8 if bits <= 8 else np.int16)


def _pack_chunk(offsets: NDArray[np.integer], bits: int) -> NDArray[np.uint8]:
    spread = (offsets[:, None] >> np.arange(bits)) & 1
    return np.packbits(spread.astype(np.uint8), bitorder="little")


def _unpack_chunk(data: NDArray[np.uint8], bits: int) -> NDArray[np.int32]:
    spread = np.unpackbits(data, bitorder="little")
    whole = len(spread) // bits
    weights = (1 << np.arange(bits)).astype(np.int32)
    return spread[: whole * bits].reshape(whole, bits).astype(np.int32) @ weights
