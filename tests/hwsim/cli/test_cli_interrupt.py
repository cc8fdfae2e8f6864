"""Ctrl-C on a real process: exit code 130, nothing half written, and the same command goes on from there."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hwsim.cli.main import run

ROOT = Path(__file__).resolve().parents[3]
MODEL = f"{ROOT}/tests/small_models.py:transformer"
# A hook of the test, not of hwsim: stop for a moment where the signal is to arrive.
WAIT = """
import sys, time
from hwsim.cli.main import main
from hwsim.stages import error_profile, plan
def slow(before):
    def wait(*given, **named):
        print("ready", file=sys.stderr, flush=True)
        time.sleep(60)
        return before(*given, **named)
    return wait
{patch}
main()
"""
PLACES = {
    "profiling errors": "error_profile.profile_errors = slow(error_profile.profile_errors)",
    "solving": "plan.solve_inside_latency = slow(plan.solve_inside_latency)",
}


def interrupted(place: str, out: Path) -> subprocess.CompletedProcess[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", WAIT.format(patch=PLACES[place]), "plan", "-t", "edge_gpu", "-m", MODEL, "-o", str(out)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )  # fmt: skip
    assert process.stderr is not None
    while "ready" not in process.stderr.readline():
        assert process.poll() is None
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)


@pytest.mark.parametrize("place", PLACES)
def test_interrupted_run_goes_on(place, tmp_path):
    out = tmp_path / "out"
    done = interrupted(place, out)
    assert done.returncode == 130
    assert "hwsim: interrupted" in done.stderr and "Traceback" not in done.stderr
    left = sorted(path.name for path in out.iterdir())
    assert left == ["config.yaml"] + ["profile.json"] * (place == "solving")
    hint = next(line for line in done.stderr.splitlines() if line.startswith("go on with: "))
    command = hint.removeprefix("go on with: hwsim ").split()
    assert command == ["plan", "--config", str(out / "config.yaml"), "--resume"]
    code = "from hwsim.cli.main import main; main()"
    subprocess.run([sys.executable, "-c", code, *command], check=True, capture_output=True, timeout=300)
    stages = {
        stage["name"]: stage["seconds"] for stage in json.loads((out / "report.json").read_text())["stages"]
    }
    assert (out / "plan.json").is_file() and "solving" in stages


def test_an_interrupted_quantization_leaves_nothing(tmp_path):
    """Also where an older result lies, whose flags must stay its own."""
    (tmp_path / "feed.py").write_text("def samples(): raise KeyboardInterrupt\n")
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "config.yaml").write_text("verb: quantize\n")
    for name in ("new", "old"):
        arguments = ["quantize", "--scheme", "w8a8", "-m", MODEL, "-o", str(tmp_path / name)]
        assert run([*arguments, "--calibration-data", f"{tmp_path}/feed.py:samples"]) == 130
    assert not (tmp_path / "new").exists()
    assert (tmp_path / "old" / "config.yaml").read_text() == "verb: quantize\n"


def test_interrupted_search_keeps_the_best_plan(tmp_path):
    """The solver listens itself: the plan is what it has found by then, and the exit code says so."""
    code = """
import os, signal
from hwsim.cli.main import main
from planner import solve
before = solve.minimise
def minimise(*given, **named):
    found = before(*given, **named)
    os.kill(os.getpid(), signal.SIGINT)  # after the first objective, before the second
    return found
solve.minimise = minimise
main()
"""
    arguments = ["plan", "-t", "edge_gpu", "-m", MODEL, "-o", str(tmp_path), "--max-latency", "1ms"]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 130, done.stderr
    plan = json.loads((tmp_path / "plan.json").read_text())
    assert plan["stopped"] == "interrupted" and plan["layers"]
    assert (tmp_path / "config.yaml").is_file()
