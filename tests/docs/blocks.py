"""The code blocks of the documentation: found, run in order, and compared with the output that the page shows.

A page is a sequence of fenced blocks in one empty directory:

- ``console``: lines that begin with ``$`` are run, the lines below are what they print; ``…`` stands for
  anything, alone on a line for any lines. ``echo $?`` shows the exit code of a command that may fail.
- ``python``: run in one namespace per page; a ``text`` block that follows directly is what it prints.
- ``python`` or ``yaml`` whose first line is a comment with a file name: written to that file.
- a block below ``<!-- not run: REASON -->`` is not run; the reason is counted by the test.
- ``<!-- in the tutorial's directory -->`` anywhere on a page: the files of the tutorial are there.

Numbers may differ by a tenth, or by one in their last decimal: another processor sums in another order. The pages train
their network themselves, and were made with AVX-512: without it another network is trained, of which other plans are
best, so there the commands run and their outputs are not compared.
"""

import contextlib
import io
import math
import os
import re
import shlex
import subprocess
import sys
import traceback
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from markdown_it import MarkdownIt

RUNNABLE = ("console", "python", "yaml")
TOLERANCE = 0.1
_FILE = re.compile(r"#\s*([\w./-]+\.(?:py|yaml|yml))\s*$")
_NOT_RUN = re.compile(r"<!--\s*not run:\s*(.+?)\s*-->", re.DOTALL)
NUMBER = re.compile(r"(?<![\w.])[-+]?\d+(?: \d{3})*(?:\.\d+)?(?:e[-+]?\d+)?")
_SHELL = re.compile(r"[|<>&;*$]")
TUTORIAL_FILES = "<!-- in the tutorial's directory -->"


@dataclass(frozen=True)
class Block:
    """One fenced block: ``line`` is that of its fence, ``shown`` the output that a python block announces."""

    line: int
    language: str
    text: str
    reason: str = ""
    shown: str | None = None

    @property
    def file(self) -> str | None:
        """Name of the file that the block is, if it is one."""
        found = _FILE.match(self.text.splitlines()[0]) if self.text else None
        return found.group(1) if found else None


@dataclass(frozen=True)
class Command:
    """One command of a console block, as written and on one line, and the lines below it."""

    written: str
    text: str
    shown: tuple[str, ...]


def blocks_of(page: str) -> list[Block]:
    """All runnable blocks of a page in order."""
    found: list[Block] = []
    reason = ""
    previous = None
    for token in MarkdownIt().parse(page):
        if token.type == "html_block":
            match = _NOT_RUN.search(token.content)
            reason = match.group(1) if match else ""
        elif token.type == "fence":
            language = token.info.split()[0] if token.info else ""
            if language == "text" and previous is not None and found and previous == "python":
                last = found.pop()
                found.append(Block(last.line, "python", last.text, last.reason, token.content))
            elif language in RUNNABLE:
                found.append(Block((token.map or [0])[0] + 1, language, token.content, reason))
            reason = ""
        previous = token.info if token.type == "fence" else None
    return found


def commands_of(text: str) -> list[Command]:
    """The commands of a console block; a line that ends in a backslash goes on in the next."""
    found: list[Command] = []
    lines = iter(text.splitlines())
    for line in lines:
        if line.startswith("$ "):
            written = line
            while written.endswith("\\"):
                written += "\n" + next(lines)
            found.append(Command(written, re.sub(r"\\\n\s*", "", written.removeprefix("$ ")), ()))
        else:
            assert found, f"output before the first command: {line}"
            found[-1] = replace(found[-1], shown=(*found[-1].shown, line))
    return found


@dataclass
class Page:
    """Runs the blocks of one page in ``directory``, which must be the working directory."""

    directory: Path
    namespace: dict[str, object] = field(default_factory=dict[str, object])
    code: int = 0

    def run(self, block: Block) -> None:
        """Run one block; an ``AssertionError`` says what went wrong."""
        if block.file is not None:
            path = self.directory / block.file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text, encoding="utf-8")
        elif block.language == "python":
            printed = self.python(block.text)
            if block.shown is not None:
                check(printed, block.shown.splitlines(), "the python block")
        elif block.language == "console":
            for command in commands_of(block.text):
                before, printed = self.code, self.command(command.text)
                assert not before or command.text == "echo $?", f"exit code {before} before: {command.text}"
                check(printed, list(command.shown), command.text)
            assert not self.code, f"exit code {self.code}: {command.text}\n{printed}"
        else:
            raise AssertionError("a yaml block needs a file name in its first line, or a reason not to run")

    def python(self, text: str) -> str:
        """Run Python in the namespace of the page, its directory importable; what it prints."""
        printed = io.StringIO()
        sys.path.insert(0, str(self.directory))
        try:
            with contextlib.redirect_stdout(printed):
                exec(compile(text, "<documentation>", "exec"), self.namespace)
        finally:
            sys.path.remove(str(self.directory))
        return printed.getvalue()

    def command(self, text: str) -> str:
        """Run a command and keep its exit code; standard error is shown where it fails."""
        if text == "echo $?":
            code, self.code = self.code, 0
            return f"{code}\n"
        words = shlex.split(text)
        if words[0] == "hwsim" and not _SHELL.search(text):
            self.code, printed, errors = run_hwsim(words[1:])
        else:
            tools = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
            done = subprocess.run(
                ["bash", "-c", text], capture_output=True, text=True, env={**os.environ, "PATH": tools}
            )
            self.code, printed, errors = done.returncode, done.stdout, done.stderr
        return printed + errors if self.code else printed


def run_hwsim(arguments: list[str]) -> tuple[int, str, str]:
    """The command line in this process, which has imported torch already."""
    from hwsim.cli import main

    printed, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(errors):
        try:
            code = main.run(arguments)
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 1
        except BaseException:
            traceback.print_exc()
            code = 1
    return code, printed.getvalue(), errors.getvalue()


def check(printed: str, shown: list[str], what: str) -> None:
    """Compare what was printed with what the page shows; no lines shown means any output will do."""
    expected = [" ".join(line.split()) for line in shown if line.strip()]
    if expected and torch.backends.cpu.get_cpu_capability() == "AVX512":
        lines = [" ".join(line.split()) for line in printed.splitlines() if line.strip()]
        assert _same(lines, expected), f"{what}\nprinted:\n{printed}\nthe page shows:\n" + "\n".join(shown)


def _same(lines: list[str], expected: list[str]) -> bool:
    if not expected:
        return not lines
    if expected[0] == "…":
        return any(_same(lines[skip:], expected[1:]) for skip in range(len(lines) + 1))
    return bool(lines) and same_line(lines[0], expected[0]) and _same(lines[1:], expected[1:])


def same_line(line: str, expected: str) -> bool:
    """Equal text around numbers that are close; ``…`` inside the expected line stands for anything."""
    parts: list[str] = []
    numbers: list[float] = []
    decimals: list[float] = []
    position = 0
    for found in NUMBER.finditer(expected):
        parts += [re.escape(expected[position : found.start()]), f"({NUMBER.pattern})"]
        numbers.append(_value(found.group()))
        decimals.append(_last_decimal(found.group()))
        position = found.end()
    pattern = "".join([*parts, re.escape(expected[position:])]).replace("…", ".*")
    match = re.fullmatch(pattern, line)
    if match is None:
        return False
    values = [_value(text) for text in match.groups()]
    found = zip(values, numbers, decimals, strict=True)
    return all(math.isclose(a, b, rel_tol=TOLERANCE, abs_tol=1.01 * last) for a, b, last in found)


def _last_decimal(text: str) -> float:
    """What one more in the last decimal adds; 0 for whole numbers."""
    mantissa, _, exponent = text.partition("e")
    places = len(mantissa.partition(".")[2])
    return 10.0 ** (int(exponent or 0) - places) if places else 0.0


def _value(text: str) -> float:
    return float(text.replace(" ", ""))
