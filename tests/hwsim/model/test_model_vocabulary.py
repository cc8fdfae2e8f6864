"""How many tokens a network knows: read off the tables that its inputs pick from."""

import torch
from torch import Tensor, nn

from hwsim.model.load import graph_module
from hwsim.model.vocabulary import vocabularies


class Tables(nn.Module):
    """Two inputs that pick from tables, one behind a cast and a change of shape, one that does not."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.kinds = nn.Embedding(50, 4), nn.Embedding(3, 4)

    def forward(self, ids: Tensor, kinds: Tensor, mask: Tensor) -> Tensor:
        """Sum of both."""
        found = self.words(ids) + self.kinds(kinds.reshape(-1).long().reshape(2, 5))
        return found * mask[..., None]


def test_rows_of_the_tables_behind_the_inputs() -> None:
    inputs = (torch.zeros(2, 5, dtype=torch.long), torch.zeros(2, 5, dtype=torch.int32), torch.zeros(2, 5))
    assert vocabularies(graph_module(torch.export.export(Tables(), inputs))) == (50, 3, None)


class Shifted(nn.Module):
    """A table whose rows are not the input's own numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(50, 4)

    def forward(self, ids: Tensor) -> Tensor:
        """Rows from the second on."""
        return self.words(ids + 2)


def test_numbers_that_are_changed_on_the_way_say_nothing() -> None:
    inputs = (torch.zeros(2, 5, dtype=torch.long),)
    assert vocabularies(graph_module(torch.export.export(Shifted(), inputs))) == (None,)
