"""Packing of terms that keep single rows: every row once, at the lane the table says, with little air."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwsim.compile.pack_windows import windows_for


def placed(windows, channels, terms, lanes):
    """Rows that the tables name for each later term: channel -> where the permutation finds it."""
    vectors, first, slot_index, found = windows.vectors, 0, 0, []
    table = windows.lanes.reshape(len(windows.slots), terms - 1, lanes)
    for section in windows.sections:
        for panel in range(section.panels):
            base = first + panel * section.vectors
            for slot in range(len(section.pattern)):
                number = windows.slots[slot_index]
                for term, pair in section.sources(slot):
                    both = np.concatenate([vectors[base + v][1] for v in pair])
                    for lane in np.flatnonzero(table[slot_index, term] >= 0):
                        channel = both[table[slot_index, term, lane]]
                        assert vectors[base + pair[0]][0] == term + 1
                        assert channel == number * lanes + lane
                        found.append((term, int(channel)))
                slot_index += 1
        first += section.panels * section.vectors
    return found


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 300), st.lists(st.floats(0, 1), min_size=1, max_size=3), st.integers(0, 2**32 - 1))
def test_every_row_is_found_at_its_lane(channels, shares, seed):
    rng = np.random.default_rng(seed)
    later = [np.flatnonzero(rng.random(channels) < share) for share in shares]
    windows = windows_for([np.arange(channels), *later], channels, 16)
    found = placed(windows, channels, len(later) + 1, 16)
    assert sorted(found) == sorted((t, int(row)) for t, rows in enumerate(later) for row in rows)
    assert sorted(windows.slots) == list(range(-(-channels // 16)))


@pytest.mark.parametrize("share", [0.25, 0.5, 0.75])
def test_vectors_are_nearly_full(share):
    """Half of the rows cost about half of the vectors: at most 6 % more than the arithmetic says."""
    rng = np.random.default_rng(1)
    rows = np.sort(rng.permutation(768)[: int(768 * share)])
    windows = windows_for([np.arange(768), rows], 768, 16)
    assert len(windows.vectors) <= 1.06 * 48 * (1 + share)
