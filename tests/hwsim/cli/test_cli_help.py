"""What a newcomer leans on: help with examples, suggestions, the tab key, quiet and colourless output."""

import errno
import os
import pty
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from hwsim.cli import doctor, main
from hwsim.cli.common import examples, walk
from hwsim.cli.main import command, run

ROOT = Path(__file__).resolve().parents[3]
COMMANDS = dict(walk(command()))
HWSIM = [sys.executable, "-c", "from hwsim.cli.main import main; main()"]


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_help_fits_a_narrow_terminal_and_ends_with_examples(words, capsys):
    assert run([*words, "--help"]) == 0
    text = capsys.readouterr().out
    assert "Examples:\n    hwsim " in text
    parts = text.partition("Examples:")
    assert all(len(line) <= 80 for line in parts[0].splitlines())
    flags = {option for param in COMMANDS[words].params for option in param.opts if option.startswith("--")}
    assert all(flag in parts[0] for flag in flags)  # no name is cut
    assert not re.search(r"list\[|int range", text)  # values are named as people do, not as Python does


@pytest.mark.parametrize(
    ("words", "line"),
    [(words, line) for words, found in COMMANDS.items() for line in examples(found)],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_examples_are_command_lines_of_this_version(words, line):
    for part in line.split(" && "):
        found, arguments = command(), shlex.split(part)[1:]
        path: list[str] = []
        while arguments and arguments[0] in getattr(found, "commands", {}):
            path.append(arguments.pop(0))
            found = found.commands[path[-1]]
        known = {option for param in found.params for option in (*param.opts, *param.secondary_opts)}
        assert {word for word in arguments if word.startswith("-")} <= known
    assert line.startswith(" ".join(("hwsim", *words)))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["pln"], "Did you mean 'plan'"),
        (["target", "shw", "edge_gpu"], "Did you mean 'show'"),
        (["plan", "--targt", "edge_gpu"], "did you mean --target"),
        (["report", "--comparee"], "did you mean --compare"),
        (["plan", "--zzz", "x"], "see hwsim plan --help"),
        (["target", "show", "edge_gpuu"], "did you mean 'edge_gpu'"),
        (["model", "show", "resnet19"], "did you mean resnet18"),
        (["plan", "--log-level", "loud"], "choose debug, info"),
        (["plan", "--seed", "x", "-t", "a", "-m", "b"], "--seed"),
        (["compile", "--plan", "plan.json"], "--output-dir is missing; for example: hwsim compile --plan"),
        (["report"], "PLANS is missing; for example: hwsim report out/"),
    ],
)
def test_near_misses_are_answered_in_one_line(arguments, says, capsys):
    assert run(arguments) == 2
    out, err = capsys.readouterr()
    assert says in err
    assert err.count("\n") == 1 and out == ""


def test_a_full_disk_is_no_defect(monkeypatch, capsys):
    def full(**_):
        raise OSError(errno.ENOSPC, "No space left on device", "out/plan.json")

    monkeypatch.setattr(main, "command", lambda: full)
    assert run(["plan"]) == 1
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "No space left" in err and "defect" not in err


def complete(line: str) -> list[str]:
    words = line.split(" ")
    environment = os.environ | {
        "_HWSIM_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1),
    }  # fmt: skip
    code = "from hwsim.cli.main import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    return done.stdout.split()


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("hwsim pl", ["plan"]),
        ("hwsim plan --target edge_", ["edge_gpu", "edge_tpu"]),
        ("hwsim plan --model resnet", ["resnet18", "resnet50"]),
        ("hwsim plan --max-w", ["--max-weight-memory"]),
        ("hwsim plan --conf", ["--config"]),
        ("hwsim plan --log-level w", ["warning"]),
        ("hwsim target show mcu_", ["mcu_m55_u55", "mcu_m7"]),
    ],
)
def test_tab_key(line, offered):
    assert complete(line) == offered


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_can_be_installed(shell, tmp_path):
    environment = os.environ | {"HOME": str(tmp_path), "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    code = "import sys; sys.argv[0] = 'hwsim'; from hwsim.cli.main import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "--install-completion", shell], env=environment, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert any("_HWSIM_COMPLETE" in path.read_text() for path in written)


def on_terminal(*arguments: str, **environment: str) -> str:
    """What a person at a terminal sees."""
    pid, handle = pty.fork()
    if pid == 0:
        os.execve(
            sys.executable, [*HWSIM, *arguments], {**os.environ, "TERM": "xterm-256color", **environment}
        )
    seen = b""
    while True:
        try:
            read = os.read(handle, 1 << 16)
        except OSError:
            break
        if not read:
            break
        seen += read
    os.waitpid(pid, 0)
    os.close(handle)
    return seen.decode()


def test_no_color_takes_the_colours_away():
    colour = re.compile(r"\x1b\[[0-9;]*3[0-7]m")
    environment = {key: "" for key in ("NO_COLOR", "CI") if key in os.environ}
    assert colour.search(on_terminal("doctor", **environment))
    assert not colour.search(on_terminal("doctor", NO_COLOR="1"))


def test_quiet_silences_notes_and_bars_but_not_results(tmp_path):
    arguments = [
        "plan",
        "-t",
        "edge_gpu",
        "-m",
        f"{ROOT}/tests/small_models.py:conv_net",
        "-o",
        str(tmp_path),
    ]
    seen = on_terminal(*arguments, "--quiet", CI="")
    assert "loading the model" not in seen
    assert "this plan" in seen
    seen = on_terminal(*arguments, CI="")
    assert "loading the model" in seen


def test_the_doctor_says_how_to_install_the_compiler(capsys, monkeypatch):
    monkeypatch.setattr(doctor, "examine", lambda: [doctor._package("no-such-package", doctor._TVM)])
    assert run(["doctor"]) == 0
    assert "pip install -c constraints.txt -e '.[tvm]'" in " ".join(capsys.readouterr().out.split())
