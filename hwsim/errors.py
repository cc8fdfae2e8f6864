"""The errors a user can meet, and the exit code each one stands for.

HwsimError
├── UserError        a mistake in what was asked: one line, what, where, how to mend (exit 2)
├── InfeasibleError  the limits contradict each other: a proof and the smallest way out (exit 3)
└── ViolationError   a budget or tolerance does not hold under ``--strict`` (exit 4)
"""


class HwsimError(Exception):
    """Root of everything hwsim raises on purpose."""

    exit_code = 1


class UserError(HwsimError):
    """The request itself is wrong; the message says what, where and how to mend it."""

    exit_code = 2


class InfeasibleError(HwsimError):
    """No plan satisfies the limits; the message names the conflicting ones."""

    exit_code = 3


class ViolationError(HwsimError):
    """A result breaks a budget or a tolerance and the user asked for strictness."""

    exit_code = 4


def mistakes() -> tuple[type[Exception], ...]:
    """What every package raises for a mistake in what was asked.

    For ``except mistakes()``, which is evaluated when something was raised: importing hwsim loads no other package.
    """
    from planner.errors import PlannerError
    from quant.errors import QuantError

    return UserError, PlannerError, QuantError


def first_line(error: BaseException) -> str:
    """What an exception of another library says, short enough for one line."""
    text = str(error).strip()
    return text.splitlines()[0][:200] if text else type(error).__name__
