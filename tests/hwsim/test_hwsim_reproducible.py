"""The same seed gives the same bytes: float products must not depend on where their operands happen to lie."""

import subprocess
import sys

import pytest
import torch

PRODUCTS = """
import hwsim
import torch

matrix, vector = torch.randn(1000, 1280), torch.randn(1280, 1)
expected, differing = matrix @ vector, 0
for offset in range(16):
    moved = torch.empty(matrix.numel() + 16)[offset : offset + matrix.numel()].view_as(matrix).copy_(matrix)
    differing += not torch.equal(moved @ vector, expected)
print(differing)
"""


@pytest.mark.skipif(not torch.backends.mkl.is_available(), reason="this torch does not use MKL")
def test_products_do_not_depend_on_the_address_of_their_operands() -> None:
    """Without MKL_CBWR this very product differs at three addresses out of four."""
    process = subprocess.run([sys.executable, "-c", PRODUCTS], capture_output=True, text=True, check=True)
    assert process.stdout.strip() == "0"
