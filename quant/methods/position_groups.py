"""Positions of a token sequence that err alike share one compensating bias (methods.md 9.4, axes ``groups``).

One bias a channel is the mean over all positions, so the many patches of a vision transformer outvote the few
tokens that everything hangs on: the class token, which the head alone reads, and the tokens of massive
activations (ViT-Tiny: the four corner patches, whose outputs of one layer are a hundred times those of the others
and are clipped at 4 bits). Their mean error then grows by the bias of the others. One bias a position repairs that
with a table larger than the weights. Most positions err alike, so a few groups do: the largest is served by the
layer's own bias, each other group by one vector more, which a kernel adds with one multiply-add an output.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from quant.group_bias import GroupBias
from quant.methods.bias_compensation import Shrinkage, mean_error, shrink_factor

GROUPS = 4
ROUNDS = 20


@dataclass(frozen=True)
class GroupedCompensation:
    """The largest group's bias, for the layer, and what the other groups get on top."""

    bias: Tensor  # float32 (C,)
    groups: GroupBias | None


def fixed_length(nodes: Iterable[fx.Node]) -> bool:
    """Whether every sample of a graph lays its tokens out alike: images do, sentences do not."""
    fed = [node.meta.get("val") for node in nodes if node.op == "placeholder"]
    return all(value is None or value.dtype.is_floating_point for value in fed)


def samples_lead(shape: Sequence[int], batch: int) -> bool:
    """Whether samples lie along the first axis of a linear layer's output, of so many samples.

    torch's own attention puts tokens there and samples behind them: then what looks like positions are the samples.
    """
    first, *positions, _ = shape
    return first % batch == 0 and (batch == 1 or batch not in positions)


def fit_groups(
    pairs: Iterable[tuple[Tensor, Tensor]], labels: Tensor, shrinkage: Shrinkage
) -> GroupedCompensation:
    """Biases of the groups from (float output, quantized output); each is shrunk by its own noise.

    ``labels`` holds the group of each position, 0 the one that the layer's bias serves.
    """
    count = int(labels.max()) + 1
    grouped = ((_means(exact, labels, count), _means(output, labels, count)) for exact, output in pairs)
    fitted = mean_error(grouped, (1, 2)).solve(shrinkage)
    factors = [shrink_factor(m, v, shrinkage) for m, v in zip(fitted.mean, fitted.variance, strict=True)]
    biases = torch.stack([f * m for f, m in zip(factors, fitted.mean, strict=True)]).float()
    more = biases[1:] - biases[:1]
    return GroupedCompensation(biases[0], GroupBias(labels, more) if len(more) else None)


def _means(values: Tensor, labels: Tensor, count: int) -> Tensor:
    """Mean over the positions of each group: (samples, groups, channels)."""
    member = torch.nn.functional.one_hot(labels.flatten(), count).to(values).T
    flat = values.reshape(len(values), labels.numel(), values.shape[-1])
    return (member @ flat) / member.sum(1)[:, None]


def position_groups(mean: Tensor, variance: Tensor, limit: int = GROUPS) -> Tensor:
    """Group of each position, 0 the largest, from the mean error (..., C) and the variance of that mean.

    Groups are split off one at a time by k-means, each seeded with the position that is served worst. A split must
    lower the squared mean error by more than twice the sampling noise of the positions that it takes along (once
    would do for positions picked blindly, but the worst of many was picked).
    """
    table, noise = mean.reshape(-1, mean.shape[-1]).double(), variance.reshape(-1, mean.shape[-1]).sum(1)
    centres = table.mean(0, keepdim=True)
    labels = torch.zeros(len(table), dtype=torch.int64)
    rest = (table - centres).square().sum(1)
    for _ in range(limit - 1):
        trial = torch.cat([centres, table[rest.argmax()][None]])
        found = None
        for _ in range(ROUNDS):
            before, found = found, _nearest(table, trial)
            if before is not None and torch.equal(before, found):
                break
            trial = _centres(table, found, trial)
        assert found is not None, "there is at least one round"
        after = (table - trial[found]).square().sum(1)
        if not float((rest - after).sum()) > 2 * float(noise[found == len(trial) - 1].sum()):
            break
        centres, labels, rest = trial, found, after
    sizes = torch.bincount(labels, minlength=len(centres))
    ranks = sizes.argsort(descending=True, stable=True).argsort()
    return ranks[labels].reshape(mean.shape[:-1])


def _nearest(table: Tensor, centres: Tensor) -> Tensor:
    """The nearest centre of each row; the square of the row itself is the same for all of them."""
    return (centres.square().sum(1) - 2 * (table @ centres.T)).argmin(1)


def _centres(table: Tensor, labels: Tensor, old: Tensor) -> Tensor:
    """Mean row of each label, the old one where it has none."""
    member = torch.nn.functional.one_hot(labels, len(old)).to(table).T
    sizes = member.sum(1, keepdim=True)
    return torch.where(sizes > 0, (member @ table) / sizes.clamp_min(1), old)
