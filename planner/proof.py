"""What is proven about a decision, in the unit of the request."""

from fractions import Fraction
from typing import get_args

from planner.decide import Decision
from planner.entries import ExactTables
from planner.limits import to_fraction
from planner.plan import Proof
from planner.request import Quantity


def proof_of(exact: ExactTables, quantity: str, decision: Decision) -> Proof:
    """Value, bound and gap of one objective."""
    assert decision.value is not None
    name: Quantity = next(known for known in get_args(Quantity) if known == quantity)
    value = to_fraction(exact, quantity, decision.value)
    bound = to_fraction(exact, quantity, min(decision.bound, decision.value))
    gap = (value - bound) / value if value else Fraction(0)
    return Proof(quantity=name, value=float(value), bound=float(bound), gap=float(gap))
