"""The compiled chains leave the process as they found it."""

import os
import subprocess
import sys

COUNT = """
import numpy
import torch
from quant.chains import chain_tables

before = torch.get_num_threads()
chain_tables(numpy.ones((4, 4), numpy.float32), (4,), 2)
print(before, torch.get_num_threads())
"""


def test_the_number_of_threads_of_torch_stays() -> None:
    """Numba's first parallel call sets OpenMP's threads to all cores: torch's sums would change their order."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.run(
        [sys.executable, "-c", COUNT], capture_output=True, text=True, check=True, env=environment
    )
    assert process.stdout.split() == ["1", "1"]
