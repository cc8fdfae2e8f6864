"""Freed memory while a method trains, by the resident size that the kernel tells."""

import os
import sys
from pathlib import Path

import pytest
import torch

from quant.methods.retained_heap import retained_heap


@pytest.mark.skipif(sys.platform != "linux", reason="only glibc is told to keep its heap")
def test_the_heap_is_kept_inside_and_given_back_after():
    """Resident memory after freeing 64 MB: still there inside the context, gone behind it."""

    def resident():
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    with retained_heap():
        block = torch.ones(16 << 20)
        full = resident()
        del block
        kept = resident()
    assert full - kept < 32 << 20
    assert kept - resident() > 32 << 20
