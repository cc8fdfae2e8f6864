"""The flags that plan and solve share reach the planner in its units."""

import pytest

from hwsim.errors import UserError
from hwsim.stages.search import planner_request, read_search

KNOWN = ("error", "latency")


def test_every_flag_arrives():
    search = read_search(
        {
            "max_latency": "4ms", "max_bops": "30G", "max_weight_memory": "2KiB", "max_activation_memory": 512.0,
            "max_energy": "50mJ", "max_error": 0.5, "objective": "latency, error", "pin": ["a=w8a8"],
            "forbid": ["b=w2*"], "alternatives": 2, "explain": True, "time_limit": 7, "seed": 3, "workers": 2,
        },
        KNOWN,
    )  # fmt: skip
    assert planner_request(search, ensembles=False).model_dump(exclude={"slack"}) == {
        "objective": ("latency", "error"),
        "limits": {
            "error": 0.5, "latency": 0.004, "energy": 5e10, "bops": 3e10, "weight_memory": 2048.0,
            "activation_memory": 512.0,
        },
        "pins": ("a=w8a8",), "forbids": ("b=w2*",), "ensembles": False, "seed": 3, "workers": 2,
        "time_limit": 7.0, "alternatives": 2, "explain": True,
    }  # fmt: skip


@pytest.mark.parametrize("objective", ["energy", "error,error", "error,latency,error", ""])
def test_objectives_outside_the_verb_are_refused(objective):
    with pytest.raises(UserError, match="--objective"):
        read_search({"objective": objective}, KNOWN)
