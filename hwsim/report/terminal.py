"""The report on a terminal: verdict, comparison, where the files are."""

from pathlib import Path
from typing import TYPE_CHECKING

from hwsim.report import format as fmt
from hwsim.report.document import Report

if TYPE_CHECKING:
    from rich.console import Console


def print_report(report: Report, console: "Console", files: list[Path]) -> None:
    """Print the short form of ``report``."""
    from rich.markup import escape
    from rich.table import Table

    console.print(f"[bold]{escape(report.headline)}[/bold]")
    for budget in report.budgets:
        console.print(f"  [{'green' if budget.met else 'red'}]{escape(fmt.budget_line(budget))}[/]")
    console.print(f"  {escape(report.solver)}")
    console.print(f"  {escape(fmt.validation_line(report))}")
    for text in report.not_honoured:
        console.print(f"  [yellow]not honoured: {escape(text)}[/]")
    for text in report.warnings:
        console.print(f"  [yellow]note: {escape(text)}[/]")
    shown = [
        column for column in range(len(fmt.COMPARISON_HEADER)) if fmt.COMPARISON_HEADER[column] != "note"
    ]
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in shown:
        right = column >= 2
        table.add_column(fmt.COMPARISON_HEADER[column], justify="right" if right else "left", no_wrap=right)
    for row in report.comparison:
        cells = fmt.comparison_cells(row)
        table.add_row(*(escape(cells[column]) for column in shown), style="bold" if row.chosen else None)
    console.print(table)
    console.print(f"predicted error: {escape(report.error_meaning)}", style="dim")
    for row in report.comparison:
        if row.note:
            console.print(f"{escape(row.name)}: {escape(row.note)}", style="dim")
    console.print("files: " + escape(", ".join(str(path) for path in files)))
