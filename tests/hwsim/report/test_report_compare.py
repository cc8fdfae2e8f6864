"""Plans side by side: leaders, dominated plans, what is not comparable."""

from hwsim.report.compare import chart, side_by_side, table, verdict
from tests.hwsim.report.report_samples import form, sample


def plan(milliseconds: float, error: float, **changes):
    base = sample()
    cycles = milliseconds * 1e-3 * base.clock_hz
    check = base.validation.model_copy(update={"simulated_cycles": cycles, "predicted_cycles": cycles})
    rows = [form("uniform w8a8", "w8a8", 4e-3, 2e-4), form("this plan", "w4a8", 1e-3, error, chosen=True)]
    return base.model_copy(update={"validation": check, "comparison": rows, **changes})


def test_leaders_and_dominated_plans():
    found = side_by_side([("fast", plan(1, 1e-2)), ("exact", plan(3, 1e-4)), ("bad", plan(4, 1e-3))])
    assert found.best["latency"] == "fast"
    assert found.best["predicted error"] == "exact"
    assert [line for line in verdict(found) if "neither" in line] == [
        "bad is neither faster nor more accurate than exact"
    ]
    assert found.entries[0].times_uniform_w8a8 == 4.0
    cells = table(found).rows
    assert [("(best)" in row[3], "(best)" in row[6]) for row in cells] == [
        (True, False),
        (False, True),
        (False, False),
    ]
    assert all(name in chart(found) for name in ("fast", "exact", "bad"))


def test_equal_plans_have_no_leader_mark():
    found = side_by_side([("a", plan(1, 1e-3)), ("b", plan(1, 1e-3))])
    assert found.best["latency"] == "a, b"
    assert not any("(best)" in cell for row in table(found).rows for cell in row)
    assert not any("neither" in line for line in verdict(found))


def test_what_is_not_comparable_is_said():
    base = sample()
    other = base.provenance.model_copy(update={"graph_sha256": "d" * 64, "sensitivity": "synthetic"})
    found = side_by_side(
        [("a", base), ("b", base.model_copy(update={"provenance": other, "illustrative": True}))]
    )
    text = " ".join(found.notes)
    assert "networks differ" in text and "different data" in text and "random" in text
    budgets = [base.budgets[0].model_copy(update={"limit": 9.0})]
    found = side_by_side([("a", base), ("b", base.model_copy(update={"budgets": budgets}))])
    assert "the plans were made under different limits" in found.notes
    assert side_by_side([("a", base), ("b", base)]).notes == []


def test_no_dominance_between_different_networks():
    found = side_by_side([("a", plan(1, 1e-4)), ("b", plan(4, 1e-3, model="another"))])
    assert not any("neither" in line for line in verdict(found))
