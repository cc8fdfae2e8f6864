"""The bar: shares by expected time, the time left, and that it shows on a terminal alone."""

import pytest

from hwsim.cli import console
from hwsim.cli.progress import Estimate, stage_progress
from hwsim.stages.progress import PROFILING, SOLVING, expected_seconds
from hwsim.stages.request import plan_request


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_stages_share_the_bar_by_their_time():
    clock = Clock()
    estimate = Estimate(clock, {"short": 1.0, "long": 9.0})
    estimate.begin("short")
    assert estimate.left() is None
    clock.now = 0.5
    assert estimate.share() == pytest.approx(0.05)
    clock.now = 100.0  # a stage that takes longer than expected never fills its share
    assert estimate.share() == pytest.approx(0.095)
    estimate.begin("long")
    assert estimate.share() == pytest.approx(0.1)
    assert estimate.left() == pytest.approx(900)  # at the pace so far
    clock.now = 104.5
    assert estimate.share() == pytest.approx(0.55)


def test_a_stage_that_counts_itself_goes_before_the_clock():
    clock = Clock()
    estimate = Estimate(clock, {"a": 2.0, "b": 2.0})
    estimate.reach("a", 0.5)
    clock.now = 50
    assert estimate.share() == 0.25
    assert estimate.left() == pytest.approx(150)
    estimate.reach("b", 1.0)
    assert estimate.share() == 1.0


def test_expected_time_grows_with_the_work(tmp_path):
    small = plan_request(target="edge_gpu", model="resnet18")
    large = plan_request(
        target="edge_gpu", model="resnet18", calibration_data=str(tmp_path), measured=8, pareto=20
    )
    before, after = expected_seconds(small), expected_seconds(large)
    assert set(before) == set(after)
    assert after[PROFILING] > 10 * before[PROFILING]
    assert sum(after.values()) > sum(before.values())
    assert before[SOLVING] == after[SOLVING]


def test_no_bar_without_a_terminal(capsys, monkeypatch):
    monkeypatch.delenv("CI", raising=False)
    console.SETTINGS.reset()
    with stage_progress() as progress, progress.stage("loading"):
        progress.note("half way")
    assert set(progress.seconds) == {"loading"}
    assert capsys.readouterr() == ("", "")
