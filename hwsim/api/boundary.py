"""Where Python code calls in: errors of all packages become those of ``hwsim.errors``."""

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from hwsim.errors import UserError, mistakes

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def one_root(verb: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """The verb, which raises nothing but ``HwsimError`` for what the caller can mend."""

    @functools.wraps(verb)
    def call(*given: Arguments.args, **named: Arguments.kwargs) -> Result:
        try:
            return verb(*given, **named)
        except UserError:
            raise
        except mistakes() as error:
            raise UserError(str(error)) from error

    return call
