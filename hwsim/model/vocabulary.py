"""How many tokens a network knows: the rows of the table that an input picks from."""

from torch import fx

from hwsim.model.operators import op_name, words
from hwsim.model.rewrite import argument, shape

# What hands every value on: of a slice or a sum it is not known which values arrive.
_SAME_VALUES = words(
    "reshape view _unsafe_view flatten unflatten squeeze unsqueeze expand permute transpose t clone contiguous alias "
    "to _to_copy long int"
)


def vocabularies(module: fx.GraphModule) -> tuple[int | None, ...]:
    """For each input the number of values it may take, None where it feeds no table."""
    return tuple(_rows(node) for node in module.graph.nodes if node.op == "placeholder")


def _rows(source: fx.Node) -> int | None:
    """Rows of the smallest table that the node's values are places of."""
    found: list[int] = []
    for user in source.users:
        name = op_name(user) if user.op == "call_function" else ""
        table = argument(user, 0, "weight") if name == "embedding" else None
        if isinstance(table, fx.Node) and argument(user, 1, "indices") is source:
            found.append(shape(table)[0])
        elif name in _SAME_VALUES:
            behind = _rows(user)
            found += [] if behind is None else [behind]
    return min(found, default=None)
