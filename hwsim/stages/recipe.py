"""Read ``--recipe``: the short form, or a YAML file with settings."""

from pathlib import Path
from typing import Any

from hwsim.errors import UserError
from quant.errors import QuantError
from quant.recipe import Recipe


def read_recipe(text: str) -> Recipe:
    """``a+b+c``, or a YAML file of ``steps`` and their settings; what integer operators can carry."""
    recipe = _parsed(text)
    if "bc" in recipe.steps and recipe.setting("bc", "axes") == "position":
        raise UserError(
            f"--recipe {text}: bc.axes: one bias a position has no integer operator; use groups or channel"
        )
    return recipe


def _parsed(text: str) -> Recipe:
    if not text.strip(" +"):
        raise UserError("--recipe is empty; write rtn for plain rounding on min-max ranges")
    if Path(text).suffix not in (".yaml", ".yml"):
        return Recipe.parse(text)
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        document: Any = YAML(typ="safe", pure=True).load(Path(text).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, YAMLError) as error:
        raise UserError(
            f"--recipe {text}: not a readable YAML file ({' '.join(str(error).split())})"
        ) from error
    if not isinstance(document, dict):
        raise UserError(f"--recipe {text}: needs a mapping with the key steps, a list of step names")
    try:
        return Recipe.parse(document)  # pyright: ignore[reportUnknownArgumentType]  # checked there
    except QuantError as error:
        raise UserError(f"--recipe {text}: {error}") from error
