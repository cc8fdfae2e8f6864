"""Every command and code block of the README and the documentation runs and prints what its page shows."""

import contextlib
import io
import os
import re
import shutil
from pathlib import Path

import pytest

from tests.docs.blocks import TUTORIAL_FILES, Page, blocks_of, check, commands_of, same_line

ROOT = Path(__file__).resolve().parents[2]
GENERATED = ("_build", "reference")
WRITTEN = [path for path in sorted((ROOT / "docs").rglob("*.md")) if path.parent.name not in GENERATED]
PAGES = [ROOT / "README.md", *WRITTEN]
TUTORIAL = ROOT / "docs" / "tutorial.md"
NOT_RUN = 6


@pytest.fixture(scope="session")
def tutorial_files(tmp_path_factory):
    """The files that the tutorial's Python makes."""
    directory = tmp_path_factory.mktemp("tutorial")
    before = Path.cwd()
    os.chdir(directory)
    try:
        page = Page(directory)
        for block in blocks_of(TUTORIAL.read_text(encoding="utf-8")):
            if block.language == "python" and not block.reason:
                page.run(block)
    finally:
        os.chdir(before)
    return directory


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_page(path, tmp_path, monkeypatch, request):
    text = path.read_text(encoding="utf-8")
    blocks = [block for block in blocks_of(text) if not block.reason]
    if not blocks:
        return
    if TUTORIAL_FILES in text:
        shutil.copytree(request.getfixturevalue("tutorial_files"), tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    page = Page(tmp_path)
    for block in blocks:
        try:
            page.run(block)
        except AssertionError as error:
            raise AssertionError(f"{path.name}:{block.line}: {error}") from None
        except Exception as error:
            raise AssertionError(f"{path.name}:{block.line}: {type(error).__name__}: {error}") from error


def test_blocks_that_do_not_run_say_why():
    reasons = [
        block.reason
        for path in PAGES
        for block in blocks_of(path.read_text(encoding="utf-8"))
        if block.reason
    ]
    assert all(len(reason.split()) >= 3 for reason in reasons), reasons
    assert len(reasons) == NOT_RUN, reasons


def test_indented_code_is_not_used_for_commands():
    """An indented block has no language and would escape the tests above."""
    from markdown_it import MarkdownIt

    for path in PAGES:
        tokens = MarkdownIt().parse(path.read_text(encoding="utf-8"))
        assert not [token.content for token in tokens if token.type == "code_block"], path.name


@pytest.mark.parametrize(
    ("line", "shown", "same"),
    [
        ("4 ms, error 0.0148", "4.1 ms, error 0.0150", True),
        ("4 ms", "5 ms", False),
        ("2 484 033 cycles", "2 500 000 cycles", True),
        ("2 484 033 cycles", "3 500 000 cycles", False),
        ("median of 20 runs: 0.123 ms", "median of 20 runs: … ms", True),
        ("w4a8 met", "w8a8 met", False),
        ("1e-05 nats", "1.02e-05 nats", True),
        ("-5 %", "5 %", False),
    ],
)
def test_comparison_of_lines(line, shown, same):
    assert same_line(line, shown) is same


def test_the_tests_that_the_pages_name_exist():
    named = {name for path in PAGES for name in re.findall(r"`(test_\w+)`", path.read_text(encoding="utf-8"))}
    written = {
        name
        for path in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"^def (test_\w+)", path.read_text(encoding="utf-8"), re.MULTILINE)
    }
    assert len(named) > 20
    assert sorted(named - written) == []


def test_transcript_of_the_readme_is_that_of_the_committed_report():
    from hwsim.cli import console
    from hwsim.report.document import Report
    from hwsim.report.terminal import print_report

    report = Report.model_validate_json((ROOT / "reports" / "vit_b-edge_gpu" / "report.json").read_bytes())
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        print_report(report, console.out(markup=True), [])
    blocks = blocks_of(PAGES[0].read_text(encoding="utf-8"))
    (command,) = commands_of(next(block.text for block in blocks if "$ hwsim plan" in block.text))
    check(printed.getvalue(), [line for line in command.shown if not line.startswith("files:")], command.text)
