"""Batch-norm statistics for random weights: those of seeded noise, so that signals neither die nor explode.

A network with random weights and untouched running statistics (mean 0, variance 1) normalises nothing: its signal
grows or shrinks with every layer and its softmax saturates. One pass over small seeded noise images sets the
statistics to what they would be had the network seen such data. It runs in float64 and the
result is rounded to 12 bits, so that the numbers do not depend on threads or vector units.

Behind a global pool or an attention a channel holds nearly the same number for all images of noise and all of their
tokens: dividing by the spread of such numbers blows up whatever differs from them, and more so with every layer. Norms
that see few values a channel, and those over tokens (one-dimensional ones), only bring the mean square to 1, and that
of images with the spectrum of natural ones (`quant.observe`): an attention averages white noise away, but not those.
"""

import copy

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm  # pyright: ignore[reportPrivateUsage]

from quant.observe import natural

IMAGES, SIDE = 4, 128
FEW = 32
"""Values of a channel that say too little of its spread."""
BITS = 12


def set_batch_statistics(module: nn.Module, args: tuple[object, ...], seed: int) -> None:
    """Set the running statistics of all batch norms of an image network with random weights."""
    norms = {name: norm for name, norm in module.named_modules() if isinstance(norm, _BatchNorm)}
    if not norms or not args or not isinstance(args[0], Tensor) or args[0].dim() != 4:
        return
    twin = copy.deepcopy(module).double().eval()
    for norm in twin.modules():
        if isinstance(norm, _BatchNorm):
            norm.train()
            norm.momentum = 1.0
            norm.register_forward_pre_hook(_bring_to_one)
    channels, height, width = args[0].shape[1:]
    generator = torch.Generator().manual_seed(seed)
    for size in ((min(SIDE, height), min(SIDE, width)), (height, width)):
        noise = torch.randn((IMAGES, channels, *size), generator=generator, dtype=torch.float64)
        if _runs(twin, noise):
            _run_again_on_natural(twin, noise)
            break  # else the architecture accepts its own image size only
    else:
        return
    seen = dict(twin.named_modules())
    with torch.no_grad():
        for name, norm in norms.items():
            for buffer in ("running_mean", "running_var"):
                getattr(norm, buffer).copy_(_rounded(getattr(seen[name], buffer)))


def _run_again_on_natural(twin: nn.Module, noise: Tensor) -> None:
    """Once more where norms only scale: the norms that have settled stay, those see what arrives of such images."""
    if all(norm.training for norm in twin.modules() if isinstance(norm, _BatchNorm)):
        return
    _runs(twin.eval(), natural(noise))


def _bring_to_one(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    values = inputs[0].transpose(0, 1).flatten(1)
    assert isinstance(norm, _BatchNorm)
    few = values.shape[1] < FEW or isinstance(norm, nn.BatchNorm1d)
    if few and norm.running_mean is not None and norm.running_var is not None:
        norm.eval()
        norm.running_mean.zero_()
        norm.running_var.fill_(float(values.square().mean()))


def _runs(module: nn.Module, images: Tensor) -> bool:
    """One pass on one thread: sums in one order, and no waiting for busy cores on work this small."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.no_grad():
            module(images)
    except (RuntimeError, AssertionError, ValueError):
        return False
    finally:
        torch.set_num_threads(threads)
    return True


def _rounded(values: Tensor) -> Tensor:
    mantissa, exponent = torch.frexp(values)
    return torch.ldexp(torch.round(mantissa * 2.0**BITS) / 2.0**BITS, exponent)
