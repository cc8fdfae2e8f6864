"""The committed deployment reports are what today's code makes of them, timings and versions aside.

All: the pages are renderings of their report.json, which belongs to the plan.json beside it; the descriptor is
unchanged; the replay of the plan gives the reported figures. The cheap ones are planned again, in fresh processes,
and compared.
Figures are compared within a thousandth; predicted errors, and what follows from comparing them, within a tenth:
another processor adds in another order, and an activation that stood on the edge of two codes falls to the other.
"""

import json
import math
import re

import pytest

from benchmarks.deployment_reports import BEGIN, CASES, END, FILES, REPORTS, index, plan
from hwsim.report.document import Report
from hwsim.report.render import to_html, to_markdown

PLANNED_AGAIN = ("resnet18-fpga_int4", "mobilenet_v2-mcu_m55_u55")
NOT_CONTENT = ("stages", "provenance", "versions", "tables_sha256")
FROM_ERRORS = ("error", "options_", "solver", "runner_up_cost", "headline")
"""Parts of the documents that hold predicted errors, or counts of the options that were pruned by them."""
NUMBER = re.compile(r"[-+]?\d+(?:\.\d+)?(?:e[-+]\d+)?")
ALL = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


def report_of(case):
    return Report.model_validate_json((REPORTS / case.name / "report.json").read_bytes())


def close(found, expected, where=""):
    """Equal documents, numbers within the tolerance of what they are."""
    tolerance = 0.1 if any(word in where for word in FROM_ERRORS) else 1e-3
    if isinstance(expected, dict):
        assert sorted(found) == sorted(expected), where
        for key, value in expected.items():
            close(found[key], value, f"{where}.{key}")
    elif isinstance(expected, list):
        assert len(found) == len(expected), where
        for position, (left, right) in enumerate(zip(found, expected, strict=True)):
            close(left, right, f"{where}[{position}]")
    elif isinstance(expected, str) and isinstance(found, str) and tolerance > 1e-3:
        assert NUMBER.sub("#", found) == NUMBER.sub("#", expected), where
        numbers = (NUMBER.findall(text) for text in (found, expected))
        for left, right in zip(*numbers, strict=True):
            close(float(left), float(right), where)
    elif isinstance(expected, str | bool | None) or isinstance(found, str | bool | None):
        assert found == expected, where
    else:
        assert math.isclose(found, expected, rel_tol=tolerance, abs_tol=1e-12), (
            f"{where}: {found}, {expected}"
        )


def test_there_are_six_and_vit_b_on_edge_gpu_is_the_first():
    assert len(CASES) >= 6
    assert CASES[0].name == "vit_b-edge_gpu"


def test_the_index_is_current():
    text = (REPORTS / "README.md").read_text(encoding="utf-8")
    assert text.partition(BEGIN)[2].partition(END)[0].strip() == index()


@ALL
def test_files_belong_together(case):
    folder = REPORTS / case.name
    assert sorted(path.name for path in folder.iterdir()) == sorted(FILES)
    report = report_of(case)
    assert (folder / "report.html").read_text(encoding="utf-8") == to_html(report)
    assert (folder / "report.md").read_text(encoding="utf-8") == to_markdown(report)
    document = json.loads((folder / "plan.json").read_text())
    assert report.provenance.command == case.command
    assert document["provenance"]["weights"] == report.provenance.weights
    assert report.illustrative == report.provenance.weights.startswith("random")
    own = next(row for row in report.comparison if row.chosen)
    assert own.error == pytest.approx(document["totals"]["error"])
    assert report.validation.predicted_cycles == document["totals"]["cycles"]


@ALL
def test_device_is_unchanged_and_the_replay_gives_the_reported_figures(case):
    from hwsim.stages.provenance import graph_sha256
    from hwsim.stages.simulate import network, replayer
    from hwsim.target.load import load_target

    report, target, file = report_of(case), load_target(case.target), REPORTS / case.name / "plan.json"
    assert report.provenance.target_sha256 == target.sha256
    assert report.provenance.graph_sha256 == graph_sha256(network(file, None))
    found = replayer(file, None)(target)
    own = next(row for row in report.comparison if row.chosen)
    assert found.cycles == pytest.approx(own.cycles, rel=1e-6)
    assert found.total_energy_pj * 1e-12 == pytest.approx(own.energy_joules, rel=1e-6)
    assert found.bops == pytest.approx(own.bops)


@pytest.mark.parametrize("name", PLANNED_AGAIN)
def test_planned_again(name, tmp_path):
    case = next(case for case in CASES if case.name == name)
    plan(case, tmp_path)
    for file in ("plan.json", "report.json"):
        found = json.loads((tmp_path / name / file).read_text())
        expected = json.loads((REPORTS / name / file).read_text())
        for part in NOT_CONTENT:
            found.pop(part, None), expected.pop(part, None)
        close(found, expected, file)
