"""Write the real output below the commands of a page where it differs from what the page shows.

    python -m tests.docs.update docs/tutorial.md

A command whose lines still hold, ``…`` included, stays as it is; a line ``?`` asks for the output.
"""

import os
import sys
import tempfile
from pathlib import Path

from tests.docs.blocks import NUMBER, TUTORIAL_FILES, Block, Page, blocks_of, check, commands_of

TUTORIAL = Path(__file__).resolve().parents[2] / "docs" / "tutorial.md"


def refreshed(shown: list[str], printed: list[str]) -> list[str]:
    """The lines of ``shown`` with the numbers of now; everything printed if another text stands in one."""
    by_text = {NUMBER.sub("0", " ".join(line.split())): line for line in printed}
    lines: list[str] = []
    for line in shown:
        found = line if "…" in line else by_text.get(NUMBER.sub("0", " ".join(line.split())))
        if found is None:
            return printed
        lines.append(found)
    try:
        check("\n".join(printed), lines, "")
    except AssertionError:
        return printed
    return lines


def renewed(page: Page, block: Block) -> str:
    """Text of a console block with outputs that hold now."""
    lines: list[str] = []
    printed = ""
    for command in commands_of(block.text):
        assert not page.code or command.text == "echo $?", f"line {block.line}: {printed}"
        printed = page.command(command.text)
        shown = list(command.shown)
        try:
            check(printed, shown, command.text)
        except AssertionError:
            print(f"line {block.line}: new output of {command.text}", file=sys.stderr)
            shown = refreshed(shown, [line.rstrip() for line in printed.rstrip().splitlines()])
        lines += [command.written, *shown]
    assert not page.code, f"line {block.line}: {printed}"
    return "\n".join(lines) + "\n"


def update(path: Path) -> None:
    """Run a page and rewrite its console blocks and the output of its python blocks."""
    text = path.read_text(encoding="utf-8")
    page = Page(Path.cwd())
    if TUTORIAL_FILES in text:
        for block in blocks_of(TUTORIAL.read_text(encoding="utf-8")):
            if block.language == "python" and not block.reason:
                page.run(block)
        page.namespace.clear()
    for block in blocks_of(text):
        if block.reason:
            continue
        if block.language == "console":
            text = text.replace(block.text, renewed(page, block), 1)
        elif block.file is None and block.shown is not None:
            text = text.replace(f"```text\n{block.shown}", f"```text\n{page.python(block.text)}", 1)
        else:
            page.run(block)
    path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    pages = [Path(name).resolve() for name in sys.argv[1:]]
    for path in pages:
        with tempfile.TemporaryDirectory() as directory:
            os.chdir(directory)
            update(path)
