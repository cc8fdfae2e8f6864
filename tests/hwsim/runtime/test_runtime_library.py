"""Two artifacts under one path in one process: each runs its own kernels."""

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("tvm")

from hwsim.runtime.model import load
from hwsim.runtime.runner import Runner
from hwsim.stages.compile import CompileRequest, run_compile

NETWORK = Path(__file__).resolve().parents[1] / "compile" / "tiny_networks.py"


def compiled(directory: Path, scheme: str) -> Runner:
    run_compile(CompileRequest(directory, scheme=scheme, model=f"{NETWORK}:cnn"))
    return load(directory)


def output(model: Runner) -> np.ndarray:
    shape = model.manifest["inputs"][0]["shape"]
    return next(
        iter(model(np.linspace(-1, 1, int(np.prod(shape)), dtype=np.float32).reshape(shape)).values())
    )


def test_an_artifact_that_was_compiled_anew_runs_its_own_kernels(tmp_path: Path) -> None:
    first, second = (compiled(tmp_path / "one", scheme) for scheme in ("w8a8", "w4a8"))
    alone = compiled(tmp_path / "other", "w4a8")
    assert np.array_equal(output(second), output(alone))
    assert not np.array_equal(output(first), output(second))
    assert np.array_equal(output(load(tmp_path / "one")), output(alone))
