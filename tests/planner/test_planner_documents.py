"""Documents: what is refused, what round-trips, what a light import costs."""

import subprocess
import sys
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from planner.errors import PlannerError
from planner.exact import DecimalScale, as_fraction
from planner.request import Limits, Request
from planner.select import legal_options
from planner.tables import (
    Agreement,
    Boundary,
    BoundaryRule,
    EnsembleChoice,
    LayerOption,
    LayerTable,
    Split,
    Tables,
)
from tests.planner.random_tables import random_tables


def option(scheme="w8a8", **fields):
    bits = {"weight_bits": 8, "act_bits": 8, "error": 1.0, "cycles": 1}
    return LayerOption(scheme=scheme, **(bits | fields))


def layer(name="a", kind="linear", options=None):
    return LayerTable(name=name, kind=kind, options=options or (option(),))


@given(st.floats(min_value=0, max_value=1e300, allow_nan=False))
def test_decimals_are_exact(value):
    assert as_fraction(value) == Fraction(str(value))
    scale = DecimalScale.of([value, 0.1])
    assert scale.fraction(scale.integer(value)) == Fraction(str(value))
    assert scale.floor(Fraction(str(value))) == scale.integer(value)


def test_floor_rounds_down():
    assert DecimalScale(2).floor(Fraction(1999, 1000)) == 199


@pytest.mark.parametrize("seed", range(20))
def test_tables_survive_json(seed):
    tables = random_tables(seed)
    assert Tables.model_validate_json(tables.model_dump_json()) == tables


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Tables(layers=(layer(), layer())), "same name"),
        (lambda: Tables(layers=(layer(),), agreements=(Agreement(name="g", layers=("a", "b")),)), "no table"),
        (
            lambda: Tables(layers=(layer(),), boundaries=(Boundary(source="a", target="a", rules=(BoundaryRule(),)),)),
            "twice",
        ),
        (lambda: Tables(layers=(layer(),), units=2, ensembles=(EnsembleChoice(predictors=2),)), "3 units"),
        (lambda: option(splits=(Split(predictors=2, base=1, error=0),)), "splits need 1"),
        (
            lambda: option(
                order=2, term_cycles=(1, 1), term_energy_pj=(0, 0), term_bops=(0, 0),
                splits=(Split(predictors=2, base=2, error=0),),
            ),
            "must leave one",
        ),
        (lambda: option(error=-1.0), "greater than or equal to 0"),
        (lambda: option(error=float("nan")), "finite"),
        (lambda: option(colour="red"), "not permitted"),
        (lambda: Request(objective=("error", "error")), "must differ"),
        (lambda: Limits(latency=-1.0), "greater than or equal to 0"),
    ],
)  # fmt: skip
def test_mistakes_are_named(make, message):
    with pytest.raises(ValidationError, match=message):
        make()


def test_pins_and_forbids_select_options():
    wide = (option("w2a8", weight_bits=2), option("w4a8.o2", weight_bits=4), option("fp", weight_bits=None))
    tables = Tables(layers=(layer("head", options=wide), layer("body.0", "conv2d", wide)))
    assert legal_options(tables, ("head=w4*",), ()) == [[1], [0, 1, 2]]
    assert legal_options(tables, (), ("*=*.o2",)) == [[0, 2], [0, 2]]
    assert legal_options(tables, ("kind:conv2d=w2a8|fp",), ()) == [[0, 1, 2], [0, 2]]
    assert legal_options(tables, ("head=w>=4",), ("body*=w>8",)) == [[1, 2], [0, 1]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("head", "LAYERS=SCHEMES"),
        ("=w8", "LAYERS=SCHEMES"),
        ("haed=w8", "did you mean 'head'"),
        ("xyz=w8", "names are like"),
    ],
)
def test_bad_pins_say_how_to_mend(text, message):
    with pytest.raises(PlannerError, match=message):
        legal_options(Tables(layers=(layer("head"),)), (text,), ())


def test_documents_import_neither_solver_nor_floor_above():
    code = (
        "import sys, planner.tables, planner.plan, planner.request, planner.errors, planner.select, planner.diff\n"
        "heavy = {'ortools', 'numpy', 'torch', 'hwsim', 'numba'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_solving_imports_neither_torch_nor_the_floor_above():
    code = (
        "import sys\n"
        "from planner.solve import solve\nfrom planner.request import Request\n"
        "from planner.tables import LayerOption, LayerTable, Tables\n"
        "one = LayerOption(scheme='w8a8', weight_bits=8, act_bits=8, error=1.0, cycles=1)\n"
        "plan = solve(Tables(layers=(LayerTable(name='a', kind='linear', options=(one,)),)), Request())\n"
        "assert plan.status == 'optimal'\n"
        "above = {'torch', 'hwsim', 'numba', 'quant', 'tvm'} & set(sys.modules)\n"
        "assert not above, above"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
