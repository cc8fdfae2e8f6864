"""Text to token ids, from files on this machine.

`tokenizer.json` (or a folder that holds one) of the tokenizers library, or a JSON of `pieces` and `scores`:
byte-pair merges by score with byte fallback, as in sentencepiece and llama2.c.
"""

import heapq
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hwsim.errors import UserError

Encode = Callable[[str], list[int]]
_BYTE_OFFSET, _BEGIN = 3, 1


def load_tokenizer(path: Path) -> Encode:
    """A function from text to ids."""
    file = path / "tokenizer.json" if path.is_dir() else path
    try:
        document: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"--tokenizer {file}: not a readable JSON file ({error})") from error
    if {"pieces", "scores"} <= document.keys():
        return piece_encoder(document["pieces"], document["scores"])
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:
        raise UserError(f"--tokenizer {file}: not a tokenizer.json ({error})") from error
    return lambda text: tokenizer.encode(text).ids


def piece_encoder(pieces: list[str], scores: list[float]) -> Encode:
    """Merge the adjacent pair with the highest score until none is left; leading space, begin token."""
    ids = {piece: index for index, piece in enumerate(pieces)}

    def encode(text: str) -> list[int]:
        tokens: list[int] = []
        for character in " " + text:
            found = ids.get(character)
            tokens += [found] if found is not None else [b + _BYTE_OFFSET for b in character.encode()]
        return [_BEGIN, *_merge(tokens, pieces, scores, ids)]

    return encode


def _merge(tokens: list[int], pieces: list[str], scores: list[float], ids: dict[str, int]) -> list[int]:
    """Greedy merging with a heap over a linked list; equal scores merge from the left."""
    following = [*range(1, len(tokens)), -1]
    preceding = list(range(-1, len(tokens) - 1))
    heap: list[tuple[float, int, int, int, int]] = []

    def offer(left: int) -> None:
        right = following[left] if left >= 0 else -1
        if right < 0:
            return
        merged = ids.get(pieces[tokens[left]] + pieces[tokens[right]])
        if merged is not None:
            heapq.heappush(heap, (-scores[merged], left, tokens[left], tokens[right], merged))

    for position in range(len(tokens)):
        offer(position)
    while heap:
        _, left, first, second, merged = heapq.heappop(heap)
        right = following[left]
        if right < 0 or tokens[left] != first or tokens[right] != second:
            continue
        tokens[left], tokens[right] = merged, -1
        following[left] = following[right]
        if following[right] >= 0:
            preceding[following[right]] = left
        offer(preceding[left])
        offer(left)
    return [token for token in tokens if token >= 0]
