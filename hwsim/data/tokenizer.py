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
        document: Any = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"--tokenizer {file}: not a readable JSON file ({error})") from error
    if isinstance(document, dict) and {"pieces", "scores"} <= document.keys():
        return piece_encoder(*_checked(file, document["pieces"], document["scores"]))
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:
        raise UserError(f"--tokenizer {file}: not a tokenizer.json ({error})") from error
    return lambda text: tokenizer.encode(text).ids


def _checked(file: Path, pieces: Any, scores: Any) -> tuple[list[str], list[float]]:
    """Pieces and scores, if they are such and one belongs to each of the other."""
    texts = isinstance(pieces, list) and all(isinstance(piece, str) for piece in pieces)
    numbers = isinstance(scores, list) and all(isinstance(score, int | float) for score in scores)
    if not texts or not numbers or len(pieces) != len(scores):
        raise UserError(
            f"--tokenizer {file}: pieces must be a list of texts, and scores one of as many numbers"
        )
    if len(pieces) < _BYTE_OFFSET + 256:
        raise UserError(
            f"--tokenizer {file}: holds {len(pieces)} pieces; give all of them, which begin with unknown, begin, end "
            "and the 256 bytes"
        )
    return pieces, scores


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
