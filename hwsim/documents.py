"""The planner's documents read from files; a mistake in one is a line that names the first field that is wrong."""

from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from hwsim.errors import UserError
from hwsim.files import existing_file, plan_file

if TYPE_CHECKING:
    from pydantic import BaseModel, ValidationError

    from planner.plan import Plan

    Document = TypeVar("Document", bound=BaseModel)


def read_document(kind: "type[Document]", path: Path, flag: str) -> "Document":
    """A document of this kind; ``flag`` is what the user named the file with."""
    from pydantic import ValidationError

    text = existing_file(path, flag).read_text(encoding="utf-8", errors="replace")
    try:
        return kind.model_validate_json(text)
    except ValidationError as error:
        raise UserError(f"{path}: not a {kind.__name__.lower()} document ({first_mistake(error)})") from error


def read_plan(path: Path, flag: str = "--plan") -> "Plan":
    """A plan.json that hwsim plan or solve wrote; its directory stands for it."""
    from planner.plan import Plan

    return read_document(Plan, plan_file(path, flag), flag)


def first_mistake(error: "ValidationError") -> str:
    """Where the first mistake stands and what it is."""
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"])
    return f"{place}{': ' if place else ''}{first['msg'].removeprefix('Value error, ')}"
