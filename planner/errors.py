"""Errors of the planning floor: one line that says what is wrong and how to mend it."""


class PlannerError(ValueError):
    """A table or a request that does not make sense."""
