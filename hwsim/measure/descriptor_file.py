"""A calibrated descriptor as YAML: every measured or fitted field with its spread beside it, for people to read."""

import io
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hwsim.target.schema import Target

DIGITS = 4


def descriptor_yaml(target: "Target", command: str, remarks: list[str]) -> str:
    """The document with a comment at each field that the calibration set."""
    from ruamel.yaml import YAML
    from ruamel.yaml.comments import CommentedMap, CommentedSeq

    document = _rounded(target.document())
    spreads: dict[str, dict[str, Any]] = document.get("calibration", {}).get("measured", {})

    def commented(value: Any, path: str) -> Any:
        if isinstance(value, dict):
            made: Any = CommentedMap()
            for key, item in value.items():
                where = f"{path}.{key}" if path else str(key)
                made[key] = commented(item, where)
                spread = spreads.get(where)
                if spread is not None:
                    kind = "measured" if spread["rounds"] > 1 else "fitted"
                    made.yaml_add_eol_comment(f"{kind}, {spread['low']:g} to {spread['high']:g}", key)
            return made
        if isinstance(value, list):
            made = CommentedSeq(commented(item, f"{path}.{index}") for index, item in enumerate(value))
            if not any(isinstance(item, dict) for item in value):
                made.fa.set_flow_style()
            return made
        return value

    yaml = YAML()
    yaml.width = 120
    stream = io.StringIO()
    yaml.dump(commented(document, ""), stream)
    head = [
        f"Written by `{command}`.",
        *remarks,
    ]
    return "".join(f"# {line}\n" for line in head) + stream.getvalue()


def _rounded(value: Any) -> Any:
    """Plain data with floats of a few digits."""
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    return float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value
