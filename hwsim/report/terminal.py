"""The report on a terminal: verdict, comparison, where the files are; on request the other sections too."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from hwsim.report import format as fmt
from hwsim.report import tables
from hwsim.report.document import Report

if TYPE_CHECKING:
    from rich.console import Console

_SHOWN_LAYERS = (
    "layer", "scheme", "unit", "predicted (cycles)", "simulated (cycles)", "time (%)", "error (nats)", "runner-up"
)  # fmt: skip


def print_report(report: Report, console: "Console", files: list[Path]) -> None:
    """Print the short form of ``report``."""
    from rich.markup import escape

    say = partial(console.print, soft_wrap=True)
    say(f"[bold]{escape(report.headline)}[/bold]")
    for budget in report.budgets:
        say(f"  [{'green' if budget.met else 'red'}]{escape(fmt.budget_line(budget))}[/]")
    say(f"  {escape(report.solver)}")
    say(f"  {escape(fmt.validation_line(report))}")
    for text in report.not_honoured:
        say(f"  [yellow]not honoured: {escape(text)}[/]")
    for text in report.warnings:
        say(f"  [yellow]note: {escape(text)}[/]")
    compared = tables.comparison(report)
    print_table(compared.picked([c.title for c in compared.columns if c.title != "note"]), console)
    say(f"predicted error: {escape(report.error_meaning)}", style="dim")
    for row in report.comparison:
        if row.note:
            say(f"{escape(row.name)}: {escape(row.note)}", style="dim")
    if files:
        say("files: " + escape(", ".join(str(path) for path in files)))


def print_details(report: Report, console: "Console") -> None:
    """Print what the short form leaves out: layers, frontier, anytime curve, energy, what is missing."""
    from rich.markup import escape

    say = partial(console.print, soft_wrap=True)
    say(escape(fmt.engines_line(report)))
    print_table(tables.layers(report).picked(_SHOWN_LAYERS), console)
    for table in (
        tables.frontier(report),
        tables.anytime(report),
        tables.furthest(report),
        tables.measured(report),
        tables.energy(report),
    ):
        if table.rows:
            say(f"\n[bold]{escape(table.caption)}[/bold]")
            print_table(table, console)
    for line in tables.memory_lines(report):
        say(escape(line))
    for name, reason in sorted(report.unavailable.items()):
        say(f"not obtained: {escape(name)}: {escape(reason)}", style="dim")


def print_table(table: tables.Table, console: "Console") -> None:
    """Print one table; what stands for the plan is bold."""
    from rich.markup import escape
    from rich.table import Table

    shown = Table(box=None, pad_edge=False, header_style="bold")
    for place, column in enumerate(table.columns):
        whole = column.figure or place == 0  # names stay in one piece
        shown.add_column(
            column.title, justify="right" if column.figure else "left", no_wrap=whole, overflow="fold"
        )
    for index, row in enumerate(table.rows):
        shown.add_row(*map(escape, row), style="bold" if index in table.chosen else None)
    console.print(shown)
