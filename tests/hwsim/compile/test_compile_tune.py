"""Tuning: block sizes change the code and never the bits; what was measured is not measured again."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("tvm")

sys.path.insert(0, str(Path(__file__).parent))

from test_compile_networks import quantized

from hwsim.compile import tune
from hwsim.compile.build import call_kernel
from hwsim.compile.check import run_program
from hwsim.compile.isa import host_isa
from hwsim.compile.lower import lower
from hwsim.compile.pack import Term, pack_terms
from hwsim.compile.product import Product

HOST = host_isa()


def test_any_block_sizes_give_the_same_bits():
    rng = np.random.default_rng(4)
    m, k, n = 217, 40, 72
    a, w = rng.integers(0, 256, (m, k), dtype=np.uint8), rng.integers(-8, 8, (n, k)).astype(np.int8)
    packed = pack_terms([Term(w, np.arange(n), np.ones(n, np.float32))], n, 1, HOST, HOST.tile_vectors)
    product = Product(((m, k, n),), (), k, packed.sections, n, (m * k, m * n), packed_bits=packed.packed_bits,
                      out_dtype="int32", raw=True)  # fmt: skip
    expected = (a.astype(np.int64) - 9) @ w.T.astype(np.int64)
    others = list(tune.candidates(product, HOST))
    assert len(others) >= 4
    for other in [*others, replace(product, tile_rows=7, row_block=50)]:
        out = np.zeros(m * n, np.int32)
        call_kernel(other, HOST, [a.ravel(), packed.weights, packed.initial(9, HOST), out])
        assert np.array_equal(out.reshape(m, n), expected)


def test_tuned_program_keeps_its_bits_and_the_database_spares_the_second_run(tmp_path, monkeypatch):
    monkeypatch.setenv("HWSIM_CACHE", str(tmp_path))
    model, inputs, _ = quantized("cnn", "w8a8")
    program = lower(model.integer(), HOST)
    arrays = [x.numpy() for x in inputs]
    expected = run_program(program, HOST, arrays)[0]
    seen: list[tuple[int, int]] = []

    # The second candidate always wins: what matters here is that the choice is applied and remembered.
    def second_wins(tried, isa):
        return [1.0, 0.5, *[0.9] * (len(tried) - 2)]

    monkeypatch.setattr(tune, "measure", second_wins)
    changed = tune.tune(program, HOST, progress=lambda done, total: seen.append((done, total)))
    assert changed > 0 and seen[-1][0] == seen[-1][1]
    assert np.array_equal(run_program(program, HOST, arrays)[0], expected)

    def forbidden(tried, isa):
        raise AssertionError("measured again")

    monkeypatch.setattr(tune, "measure", forbidden)
    again = lower(model.integer(), HOST)
    assert tune.tune(again, HOST) == changed
    assert [s.kernel for s in again.steps] == [s.kernel for s in program.steps]


def test_damaged_database_is_begun_anew(tmp_path):
    path = tmp_path / "tuning.json"
    path.write_text("{")
    assert tune.Database(path).find(Product(((4, 8, 8),), (), 8, (), 8, (32, 32)), HOST) is None


def test_measuring_gives_a_time_for_each():
    w = np.ones((16, 8), np.int8)
    packed = pack_terms([Term(w, np.arange(16), np.ones(16, np.float32))], 16, 1, HOST, HOST.tile_vectors)
    product = Product(((4, 8, 16),), (), 8, packed.sections, 16, (32, 64), packed_bits=packed.packed_bits)
    times = tune.measure([product, replace(product, tile_rows=1)], HOST)
    assert len(times) == 2 and min(times) > 0
