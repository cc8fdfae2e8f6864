"""Schedules, ranges, streaming and the profile's bookkeeping."""

import itertools
import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from quant.errors import QuantError
from quant.profile import default_schemes, profile_layer
from quant.ranges import AffineRange, minmax_range, mse_affine_range, percentile_range
from quant.scheme import FLOAT, Scheme
from quant.sparsity import (
    column_counts_by_order,
    constant_schedule,
    geometric_schedule,
    greedy_schedule,
    kept_count,
    terms_per_group,
)
from quant.streaming import profile_checkpoint, shard_paths

WEIGHT = np.random.default_rng(0).standard_normal((16, 32)).astype(np.float32)


def test_bops_and_bytes():
    full, half, float_option = profile_layer(
        WEIGHT, [Scheme.parse("w4a8.o2"), Scheme.parse("w4a8.o2.g50"), FLOAT], macs=1000
    )
    assert full.bops == 1000 * 8 * 8
    assert half.bops == 1000 * 6 * 8
    assert full.bytes == 2 * (16 * 32 / 2 + 16 * 4)
    assert half.bytes == 16 * 32 / 2 + 16 * 4 + 8 * 32 / 2 + 8 * 4 + 8 * 4
    assert (float_option.weight_error, float_option.bytes, float_option.bops) == (0.0, 16 * 32 * 4, 1024000)


def test_default_schemes_are_all_profiled_and_fall_with_order():
    options = {str(o.scheme): o for o in profile_layer(WEIGHT, default_schemes())}
    assert len(options) > 70
    for bits in (2, 3, 4, 5, 6):
        errors = [options[f"w{bits}a8{suffix}"].weight_error for suffix in ("", ".o2.g50", ".o2", ".o3")]
        assert errors == sorted(errors, reverse=True)
    assert "w8a8.o4" not in options


def test_broadcast_gradients_equal_written_out_ones():
    schemes = [Scheme.parse("w3a8"), Scheme.parse("w3a8.o2.g50"), Scheme.parse("w3a8.o2.c50")]
    row = np.random.default_rng(1).random(16).astype(np.float32)
    full = np.repeat(row[:, None] / 32, 32, axis=1)
    short = profile_layer(WEIGHT, schemes, squared_gradient=row)
    long = profile_layer(WEIGHT, schemes, squared_gradient=full)
    for a, b in zip(short[:2], long[:2], strict=True):
        assert a.loss == pytest.approx(b.loss, rel=1e-4)


def test_mistakes_name_the_shape():
    with pytest.raises(QuantError, match="column moments"):
        profile_layer(WEIGHT, [Scheme(4, 8)], column_moments=np.ones(7, np.float32))
    with pytest.raises(QuantError, match="squared gradient"):
        profile_layer(WEIGHT, [Scheme(4, 8)], squared_gradient=np.ones((3, 3), np.float32))
    with pytest.raises(QuantError, match="NaN"):
        profile_layer(np.full((2, 2), np.nan, np.float32), [Scheme(4, 8)])
    with pytest.raises(QuantError, match="one group"):
        profile_layer(WEIGHT, [Scheme.parse("w4a8.o2.c50")], groups=2)


@given(st.integers(2, 8), st.floats(0, 1), st.floats(0.1, 1))
def test_geometric_schedule_spends_its_budget(order, fraction, ratio):
    budget = fraction * (order - 1)
    kept = geometric_schedule(budget, order, ratio)
    assert len(kept) == order - 1
    assert all(0 <= p <= 100 for p in kept)
    assert 100 * budget - order <= sum(kept) <= 100 * budget + 1e-6


def test_schedules_by_example():
    assert constant_schedule(1.0, 3) == (50, 50)
    assert geometric_schedule(0.75, 3) == (50, 25)
    with pytest.raises(QuantError, match="can hold"):
        constant_schedule(3.0, 3)


@settings(max_examples=50)
@given(st.integers(0, 2**31 - 1), st.integers(2, 4), st.floats(0.1, 0.9))
def test_greedy_schedule_beats_constant_and_random_ones(seed, order, fraction):
    """Brute force over item sets is exponential; any other schedule at the same budget must be no better."""
    generator = np.random.default_rng(seed)
    energy = generator.lognormal(0, 2, 40)[None] * 0.05 ** np.arange(order + 1)[:, None]
    budget = fraction * (order - 1)
    schedule = greedy_schedule(energy, budget, order)

    def left(kept):
        counts = terms_per_group(energy, (1.0, *(p / 100 for p in kept)))
        return energy[counts - 1, np.arange(40)].sum()

    covered = [kept_count(p / 100, 40) for p in schedule]
    same = sum(covered) / 40
    assert same <= budget + 0.03 * order
    gains = np.sort((energy[: order - 1] - energy[1:order]).ravel())[::-1]
    best = energy[0].sum() - gains[: sum(covered)].sum()
    assert left(schedule) == pytest.approx(best, rel=1e-6)


def test_columns_of_one_order_stand_at_one_level():
    energy = np.random.default_rng(0).lognormal(0, 1, 20)[None] * 0.1 ** np.arange(5)[:, None]
    history = column_counts_by_order(energy, (1.0, 0.75, 0.75, 0.5))
    for before, after in itertools.pairwise(history):
        taken = np.flatnonzero(after > before)
        assert len(set(before[taken])) == 1


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("kind", ["normal", "relu", "outlier", "negative"])
def test_least_squares_range_matches_a_dense_scan(bits, kind):
    value = torch.randn(4000, generator=torch.Generator().manual_seed(1))
    value = {"normal": value, "relu": value.relu(), "outlier": value, "negative": -value.abs()}[kind].clone()
    if kind == "outlier":
        value[0] = 60.0
    chosen = mse_affine_range(value, bits).error(value).square().mean()
    full = minmax_range(value, bits)
    scan = min(
        float(AffineRange(full.low * a, full.high * b, bits).error(value).square().mean())
        for a in np.linspace(0.02, 1, 50)
        for b in np.linspace(0.02, 1, 50)
    )
    assert float(chosen) <= 1.1 * scan
    assert float(chosen) <= float(full.error(value).square().mean()) * 1.02


@given(st.floats(-100, 100), st.floats(0, 100), st.integers(2, 12))
def test_q2_ranges_hold_zero_exactly(low, width, bits):
    interval = minmax_range(torch.tensor([low, low + width]), bits)
    assert 0 <= interval.zero_point <= 2**bits - 1
    assert float(interval.error(torch.zeros(1))) == 0.0


@given(st.lists(st.floats(-50, 50, width=32), min_size=2, max_size=20), st.integers(2, 8))
def test_q5_quantizing_twice_is_once_and_order_is_kept(values, bits):
    tensor = torch.tensor(sorted(values), dtype=torch.float64)
    interval = minmax_range(tensor, bits)
    once = tensor + interval.error(tensor)
    assert torch.allclose(once + interval.error(once), once, atol=1e-12)
    assert bool((once.diff() >= -1e-12).all())


def test_percentile_cuts_outliers():
    value = torch.randn(10000)
    value[0] = 1000
    assert percentile_range(value, 8, 0.999).high < 10
    with pytest.raises(QuantError, match="percentile"):
        percentile_range(value, 8, 0.2)


def test_checkpoint_in_shards_equals_tensors_in_memory(tmp_path):
    generator = torch.Generator().manual_seed(0)
    tensors = {name: torch.randn(24, 32, generator=generator) for name in ("a.weight", "b.weight")}
    tensors["embed.weight"] = torch.randn(50, 8)
    for name, tensor in tensors.items():
        save_file({name: tensor}, tmp_path / f"{name[0]}.safetensors")
    index = {"weight_map": {name: f"{name[0]}.safetensors" for name in tensors}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    schemes = [Scheme.parse(text) for text in ("w4a8", "w4a8.o2", "w8a8")]
    found = list(profile_checkpoint(tmp_path, schemes, block=32 * 5))
    assert [profile.name for profile in found] == ["a.weight", "b.weight"]
    for profile in found:
        whole = profile_layer(tensors[profile.name].numpy(), schemes, macs=24 * 32)
        for blockwise, direct in zip(profile.options, whole, strict=True):
            assert blockwise.weight_error == pytest.approx(direct.weight_error, rel=1e-5)
            assert blockwise.relative_error == pytest.approx(direct.relative_error, rel=1e-5)
            assert (blockwise.sup_bound, blockwise.bytes) == (direct.sup_bound, direct.bytes)


def test_checkpoint_mistakes(tmp_path):
    with pytest.raises(QuantError, match=r"no \.safetensors"):
        shard_paths(tmp_path)
    (tmp_path / "bad.safetensors").write_bytes(b"not a header")
    with pytest.raises(QuantError, match="not a readable"):
        list(profile_checkpoint(tmp_path / "bad.safetensors", [Scheme(4, 8)]))
    (tmp_path / "x.index.json").write_text('{"weight_map": {"a": "gone.safetensors"}}')
    with pytest.raises(QuantError, match="missing"):
        shard_paths(tmp_path / "x.index.json")
