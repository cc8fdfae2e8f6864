"""``docs/targets.md``: its example is valid, its errors are real, its Python runs, its tables name every field."""

import re
from pathlib import Path

import pytest

from hwsim.errors import UserError
from hwsim.target import engines, parts
from hwsim.target.document import TargetDocument
from hwsim.target.load import load_target, parse_target

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "targets.md").read_text(encoding="utf-8")


def block(language: str) -> str:
    found = re.search(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    assert found is not None
    return found.group(1)


def test_six_number_example():
    target = parse_target(block("yaml"), "my_npu.yaml")
    assert target.peak_tops() == pytest.approx(0.512)
    given = {path for path, source in target.provenance().items() if source == "given"}
    numbers = {
        path for path in given if path not in ("schema_version", "name") and not path.endswith(".name")
    }
    assert numbers == {
        "clock_hz", "units.count", "engines.0.macs_per_cycle.w8a8",
        "memories.0.bytes", "memories.1.bandwidth", "power_w",
    }  # fmt: skip


def test_the_errors_shown_are_the_errors_printed():
    broken = block("yaml").replace("macs_per_cycle: 256", "macs_per_cycle: 0").replace("power_w", "power")
    with pytest.raises(UserError) as caught:
        parse_target(broken, "my_npu.yaml")
    assert str(caught.value) == block("text").rstrip()


def test_python_example_runs():
    for line in block("python").splitlines():
        expression, _, result = line.partition("#")
        if result.strip().startswith("["):
            assert repr(eval(expression, {"target": load_target("edge_gpu")})) == result.strip()
    exec(block("python"), {})


def test_every_field_is_described():
    models = [TargetDocument, *vars(parts).values(), *vars(engines).values()]
    names = {
        field.alias or name
        for model in models
        if isinstance(model, type)
        and issubclass(model, engines.Document)
        and model not in (parts.Calibration, parts.Measurement)
        for name, field in model.model_fields.items()
    }
    words = set(re.findall(r"\w+", PAGE))
    assert sorted(names - words) == []
