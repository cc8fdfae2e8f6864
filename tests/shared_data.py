"""Where the reference numbers and the real weights and images lie, for the tests that compare with them."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SHARED = Path(os.environ.get("HWSIM_SHARED", ROOT.parent / "shared"))


def shared(relative: str) -> Path:
    """Path of a reference file; skips the test where it is absent."""
    path = SHARED / relative
    if not path.exists():
        pytest.skip(f"reference file {relative} not found under {SHARED} (set HWSIM_SHARED)")
    return path
