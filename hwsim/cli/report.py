"""``hwsim report``: render reports again from ``report.json``, and put several side by side."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hwsim.cli import console
from hwsim.errors import UserError

if TYPE_CHECKING:
    from hwsim.stages.report import ReportResult


def report(
    plans: Annotated[
        list[str],
        typer.Argument(
            help="Directories that hwsim plan wrote, or their report.json; the word schema alone prints the JSON "
            "Schema of report.json."
        ),
    ],
    compare: Annotated[
        bool, typer.Option("--compare", help="Side by side: which device, which plan?")
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Write .html, .md or .json here; default: beside report.json."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the report or the comparison as JSON.")] = False,
    full: Annotated[bool, typer.Option("--full", help="Print all sections, not the short form.")] = False,
) -> None:
    """Render reports again from their report.json, or compare several plans side by side.

    Example: hwsim report out/vit_b-edge_gpu
    Example: hwsim report out/vit_b-edge_gpu out/vit_b-orin_agx --compare -o which.html
    Example: hwsim report schema
    """  # fmt: skip
    if plans == ["schema"]:
        from hwsim.report.document import json_schema

        console.print_json(json_schema())
        return
    from hwsim.stages.report import run_report

    if compare:
        _print_comparison(run_report(plans, compare=True, output=output), json)
        return
    if len(plans) > 1 and (output is not None or json):
        raise UserError(
            f"{len(plans)} plans and {'--json' if json else '--output'}: add --compare, or give one plan"
        )
    for plan in plans:
        _print_report(run_report([plan], output=output), json, full)


def _print_report(found: "ReportResult", json: bool, full: bool) -> None:
    (report,) = found.reports.values()
    if json:
        console.print_json(report.model_dump(mode="json"))
        return
    from hwsim.report.terminal import print_details, print_report

    print_report(report, console.out(markup=True), list(found.files))
    if full:
        print_details(report, console.out(markup=True))


def _print_comparison(found: "ReportResult", json: bool) -> None:
    from hwsim.report.compare import table, verdict

    compared = found.comparison
    assert compared is not None
    if json:
        console.print_json(compared.model_dump(mode="json"))
        return
    from rich.markup import escape

    from hwsim.report.terminal import print_table

    out = console.out(markup=True)
    kept = table(compared)
    print_table(kept.picked([c.title for c in kept.columns if c.title not in ("model", "target")]), out)
    for line in verdict(compared):
        out.print(escape(line), soft_wrap=True)
    for line in compared.notes:
        out.print(f"[yellow]note: {escape(line)}[/]", soft_wrap=True)
    for file in found.files:
        out.print(f"file: {escape(str(file))}", soft_wrap=True)
