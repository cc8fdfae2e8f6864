"""Activations beyond the budget lie on disk and nothing else changes."""

import gc
from dataclasses import replace

import torch

from quant.methods.activation_cache import ActivationCache
from quant.methods.calibrate import CalibrationOptions, calibrate
from quant.methods.gptq import GptqOptions
from quant.methods.pd_options import PdOptions
from quant.methods.pd_quant import pd_quant
from quant.model_pass import find_products
from quant.scheme import Scheme
from tests.quant.methods.toy_networks import batches, loaded


def test_budget_is_kept_and_room_comes_back(tmp_path):
    cache = ActivationCache(1000, tmp_path)
    first = cache.keep(torch.arange(200, dtype=torch.float32))  # 800 bytes
    view = cache.keep(first.reshape(2, 100))
    assert (cache.live, cache.mapped) == (800, 0)
    second = cache.keep(torch.arange(60.0).reshape(6, 10).T)  # 240 more do not fit; strides do not matter
    assert (cache.live, cache.mapped) == (800, 240)
    assert torch.equal(second, torch.arange(60.0).reshape(6, 10).T)
    assert list(tmp_path.iterdir()) == []  # nameless once mapped
    del first
    gc.collect()
    assert cache.live == 800  # the view still holds it
    del view
    gc.collect()
    assert cache.live == 0
    part = cache.empty((5, 4), torch.float64)
    part[torch.tensor([1, 3])] = torch.ones(2, 4, dtype=torch.float64)
    assert (cache.live, float(part[3].sum())) == (160, 4.0)
    assert cache.empty((0, 3), torch.int8).shape == (0, 3)


def test_methods_give_the_same_bytes_from_disk(monkeypatch):
    mapped: list[ActivationCache] = []
    start = ActivationCache.__init__

    def watched(self, *args):
        start(self, *args)
        mapped.append(self)

    monkeypatch.setattr(ActivationCache, "__init__", watched)
    plan = {p.name: Scheme.parse("w3a4") for p in find_products(loaded("residual"))}
    data = batches("residual", 3)
    results = []
    for memory in (1 << 30, 0):
        options = CalibrationOptions("mse", "mse", gptq=GptqOptions(), bias="layer", memory=memory)
        made = calibrate(loaded("residual"), plan, data, options)
        results.append(pd_quant(made, data, replace(PdOptions(iterations=3, holdout=0.4), memory=memory)))
    assert torch.equal(results[0].logits(data[0]), results[1].logits(data[0]))
    assert [cache.mapped > 0 for cache in mapped] == [False, False, True, True]
