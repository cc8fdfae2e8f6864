"""Numbers of a descriptor: plain, or with a unit (``625 MHz``, ``68 GB/s``, ``2 MiB``, ``5 us``).

A plain number is in the base unit of its field (hertz, bytes, bytes per second, watts; picojoules for
energies). Only numbers are kept: what was typed with a unit is converted once, here.
"""

import math
import re
from collections.abc import Callable
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, GetJsonSchemaHandler, StrictInt, WithJsonSchema
from pydantic_core import CoreSchema, PydanticCustomError

from hwsim.errors import UserError
from hwsim.units import Dimension, parse_quantity

_ZERO = re.compile(r"\s*0+(?:\.0*)?\s*[A-Za-zµ/]*\s*")
_WIDTH_PAIR = re.compile(r"w(\d{1,2})a(\d{1,2})")

WIDEST = 16
"""Integer operands are 1 to 16 bits wide; wider ones are floats to this program."""


def _number(value: object, wanted: str) -> float:
    """Let numbers through, refuse everything that merely looks like one (booleans, lists, text)."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"must be {wanted}, not {describe(value)}")
    try:
        number = float(value)
    except OverflowError as error:
        raise ValueError("must be a finite number") from error
    if not math.isfinite(number):
        raise ValueError("must be a finite number")
    return number


def describe(value: object) -> str:
    """Name a wrong value in YAML words."""
    if value is None:
        return "empty"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return f"the text {value[:40]!r}"
    if isinstance(value, list | tuple):
        return "a list"
    if isinstance(value, dict):
        return "a mapping"
    return f"{value}"


def _reader(
    dimension: Dimension, example: str, *, per_second: bool = False, scale: float = 1.0
) -> Callable[[Any], float]:
    wanted = f"a number or a quantity like '{example}'"

    def read(value: Any) -> float:
        if not isinstance(value, str):
            return _number(value, wanted)
        text = value.strip()
        if _ZERO.fullmatch(text):
            return 0.0
        if per_second:
            if not text.endswith("/s"):
                raise ValueError(f"must be {wanted}, not {describe(value)}")
            text = text[:-2]
        try:
            return parse_quantity(text, dimension, "value") * scale
        except UserError as error:
            if "greater than 0" in str(error):
                raise ValueError("must be greater than 0") from error
            raise ValueError(f"must be {wanted}, not {describe(value)}") from error

    return read


def _schema(example: str, *, zero: bool = False) -> WithJsonSchema:
    bound = {"minimum": 0} if zero else {"exclusiveMinimum": 0}
    return WithJsonSchema({"anyOf": [{"type": "number", **bound}, {"type": "string", "examples": [example]}]})


def _plain(value: Any) -> float:
    return _number(value, "a number")


class Or:
    """Tells the JSON Schema of a short spelling that a validator before this one expands."""

    def __init__(self, *shorter: dict[str, Any]) -> None:
        self.shorter = shorter

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        """The short spellings beside the long one."""
        return {"anyOf": [*self.shorter, handler(schema)]}


NUMBER: dict[str, Any] = {"type": "number", "exclusiveMinimum": 0}
TIME: dict[str, Any] = {"type": "string", "examples": ["5 us"]}

Positive = Annotated[float, BeforeValidator(_plain), Field(gt=0, allow_inf_nan=False), WithJsonSchema(NUMBER)]
NonNegative = Annotated[
    float,
    BeforeValidator(_plain),
    Field(ge=0, allow_inf_nan=False),
    WithJsonSchema({"type": "number", "minimum": 0}),
]
Fraction = Annotated[
    float,
    BeforeValidator(_plain),
    Field(gt=0, le=1, allow_inf_nan=False),
    WithJsonSchema({**NUMBER, "maximum": 1}),
]
Frequency = Annotated[
    float,
    BeforeValidator(_reader("frequency", "625 MHz")),
    Field(gt=0, allow_inf_nan=False),
    _schema("625 MHz"),
]
Bandwidth = Annotated[
    float,
    BeforeValidator(_reader("bytes", "68 GB/s", per_second=True)),
    Field(gt=0, allow_inf_nan=False),
    _schema("68 GB/s"),
]
Size = Annotated[
    float, BeforeValidator(_reader("bytes", "2 MiB")), Field(gt=0, allow_inf_nan=False), _schema("2 MiB")
]
Power = Annotated[
    float, BeforeValidator(_reader("power", "15 W")), Field(gt=0, allow_inf_nan=False), _schema("15 W")
]
StaticPower = Annotated[
    float,
    BeforeValidator(_reader("power", "1.5 W")),
    Field(ge=0, allow_inf_nan=False),
    _schema("1.5 W", zero=True),
]
Picojoules = Annotated[
    float,
    BeforeValidator(_reader("energy", "0.2 pJ", scale=1e12)),
    Field(ge=0, allow_inf_nan=False),
    _schema("0.2 pJ", zero=True),
]
Seconds = Annotated[
    float,
    BeforeValidator(_reader("time", "5 us")),
    Field(ge=0, allow_inf_nan=False),
    _schema("5 us", zero=True),
]
Count = Annotated[StrictInt, Field(ge=1, le=1_000_000)]
Bits = Annotated[StrictInt, Field(ge=1, le=WIDEST)]


def parse_width_pair(text: str) -> tuple[int, int]:
    """Read ``w4a8`` as (4, 8)."""
    match = _WIDTH_PAIR.fullmatch(text)
    pair = (int(match.group(1)), int(match.group(2))) if match else (0, 0)
    if not all(1 <= bits <= WIDEST for bits in pair):
        raise ValueError(f"must name a width pair like 'w8a8' (1 to {WIDEST} bits each), not {text[:40]!r}")
    return pair


def width_pair(weight_bits: int, act_bits: int) -> str:
    """Write (4, 8) as ``w4a8``."""
    return f"w{weight_bits}a{act_bits}"


def check_width_keys(table: dict[str, float]) -> dict[str, float]:
    """Refuse a table whose keys are no width pairs."""
    for key in table:
        try:
            parse_width_pair(key)
        except ValueError as error:
            raise PydanticCustomError("at_key", "{text}", {"key": key, "text": str(error)}) from error
    return table


WidthTable = Annotated[dict[str, Positive], Field(min_length=1), AfterValidator(check_width_keys)]
"""``{w8a8: 128, w4a4: 256}``: a number for each pair of weight and activation bits."""
