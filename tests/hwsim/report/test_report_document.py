"""The report document: round trip, published schema, margins, bounds."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from hwsim.report.document import Budget, Report, Validation, json_schema
from tests.hwsim.report.report_samples import bare, sample


@pytest.mark.parametrize("make", [sample, bare])
def test_round_trip(make):
    report = make()
    assert Report.model_validate_json(report.model_dump_json()) == report


@pytest.mark.parametrize("make", [sample, bare])
def test_json_satisfies_the_published_schema(make):
    jsonschema = pytest.importorskip("jsonschema", reason="jsonschema is not installed (dev extra)")
    schema = json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(json.loads(make().model_dump_json()), schema)


def test_schema_refuses_what_is_not_in_it():
    jsonschema = pytest.importorskip("jsonschema", reason="jsonschema is not installed (dev extra)")
    document = json.loads(sample().model_dump_json()) | {"surprise": 1}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(document, json_schema())
    with pytest.raises(ValidationError):
        Report.model_validate(document)


@given(limit=st.floats(1e-9, 1e9), value=st.floats(0, 1e9))
def test_budget_margin_has_the_sign_of_the_verdict(limit, value):
    budget = Budget(name="latency", unit="time", limit=limit, value=value, asked_by="--max-latency")
    if value <= limit:
        assert budget.met and budget.margin >= 0
    elif value > limit * (1 + 1e-6):
        assert not budget.met and budget.margin < 0


@pytest.mark.parametrize(
    ("simulated", "roofline", "serial", "held"),
    [
        (110.0, 50.0, 200.0, True),
        (116.0, 50.0, 200.0, False),  # outside the bound of 15 %
        (84.0, 50.0, 200.0, False),
        (110.0, 111.0, 200.0, False),  # faster than the roofline allows
        (110.0, 50.0, 109.0, False),  # slower than everything in series
    ],
)
def test_bound_of_the_prediction(simulated, roofline, serial, held):
    check = Validation(
        predicted_cycles=100, simulated_cycles=simulated, bound=0.15, roofline_cycles=roofline, serial_cycles=serial
    )  # fmt: skip
    assert check.held is held
    assert check.difference == pytest.approx(simulated / 100 - 1)
