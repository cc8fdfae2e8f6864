"""The one line of an infeasible request: units, and a way out that is never too small."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwsim.stages.infeasible import infeasible_text
from hwsim.units import parse_quantity
from planner.report import Conflict, InfeasibleReport, Relaxation


def report(name: str, limit: float, needed: float) -> InfeasibleReport:
    return InfeasibleReport(
        headline="raw", conflict=(Conflict(kind="limit", name=name, text="raw", limit=limit),), minimal=True,
        relaxations=(Relaxation(name=name, limit=limit, needed=needed, text="raw"),),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("name", "limit", "needed", "says"),
    [
        (
            "latency",
            1e-6,
            453.6432e-6,
            "latency at most 1 us. Feasible with latency 453.9 us instead of 1 us",
        ),
        ("energy", 1e6, 5e9, "energy at most 1 uJ. Feasible with energy 5 mJ instead of 1 uJ"),
        (
            "weight_memory",
            2**20,
            3 * 2**20,
            "weight memory at most 1 MiB. Feasible with weight memory 3 MiB",
        ),
        ("memory:sram", 2048, 4096, "sram at most 2 KiB. Feasible with sram 4 KiB"),
        (
            "error",
            1e-4,
            5e-4,
            "predicted error at most 0.0001 nats. Feasible with predicted error 0.0005 nats",
        ),
    ],
)
def test_figures_have_units(name, limit, needed, says):
    assert infeasible_text(report(name, limit, needed)).startswith(f"infeasible: {says}")


@given(needed=st.floats(1e-8, 1e3))
def test_what_is_needed_is_never_rounded_down(needed):
    text = infeasible_text(report("latency", 1e-9, needed)).partition("Feasible with latency ")[2]
    assert parse_quantity(text.partition(" instead")[0], "time", "x") >= needed


def test_pins_stay_in_the_planners_words():
    pinned = InfeasibleReport(
        headline="raw", conflict=(Conflict(kind="pin", name="head=w8a8", text="pin head=w8a8"),), minimal=True,
        relaxations=(Relaxation(name="head=w8a8", limit=0.0, text="without pin head=w8a8 a plan exists"),),
    )  # fmt: skip
    assert infeasible_text(pinned) == "infeasible: pin head=w8a8. Feasible without pin head=w8a8"
    bare = pinned.model_copy(update={"relaxations": ()})
    assert infeasible_text(bare) == "raw"


def test_all_conflicts_are_named_where_no_single_change_is_enough():
    one = report("latency", 0.4, 1.5)
    several = one.model_copy(
        update={
            "further": (Conflict(kind="memory", name="memory:sram", text="raw", limit=2**20),),
            "relaxations": (),
            "needed": (
                *one.relaxations,
                Relaxation(name="memory:sram", limit=2**20, needed=2**21, text="raw"),
            ),
        }
    )
    assert infeasible_text(several) == (
        "infeasible: latency at most 400 ms; and also: sram at most 1 MiB. "
        "No single change is enough; at least are needed: latency 1.5 s, sram 2 MiB"
    )
