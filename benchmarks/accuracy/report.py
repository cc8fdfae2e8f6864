"""Markdown tables of the accuracy reports, rewritten whole after every row so that a stopped run leaves its rows."""

from pathlib import Path


def write_table(path: Path, title: str, notes: list[str], header: list[str], rows: list[list[str]]) -> None:
    """Write one table; figures that took part of the time say so in the notes."""
    lines = [f"# {title}", "", *[line for note in notes for line in (note, "")]]
    lines += ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
