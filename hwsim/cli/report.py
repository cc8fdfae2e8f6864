"""``hwsim report``: render reports again from ``report.json``, and put several side by side."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hwsim.cli import console
from hwsim.errors import UserError

if TYPE_CHECKING:
    from hwsim.report.document import Report

_FORMATS = (".html", ".md", ".json")


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
    if output is not None and output.suffix not in _FORMATS:
        raise UserError(f"--output {output}: the ending says the format; use one of {', '.join(_FORMATS)}")
    if compare:
        _compare(_named(plans), output, json)
        return
    if len(plans) > 1 and (output is not None or json):
        raise UserError(
            f"{len(plans)} plans and {'--json' if json else '--output'}: add --compare, or give one plan"
        )
    for plan in plans:
        _render(plan, output, json, full)


def _report_file(plan: str) -> Path:
    path = Path(plan)
    path = path / "report.json" if path.is_dir() else path
    if not path.exists():
        raise UserError(f"{plan}: no report.json here; give a directory that `hwsim plan` wrote")
    return console.existing_file(path, "PLAN_DIR")


def _read(path: Path) -> "Report":
    from pydantic import ValidationError

    from hwsim.report.document import Report

    try:
        return Report.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"])) or "document"
        raise UserError(
            f"{path}: is no report of this version ({where}: {first['msg']}); run `hwsim plan` again"
        ) from error


def _render(plan: str, output: Path | None, json: bool, full: bool) -> None:
    path = _report_file(plan)
    found = _read(path)
    if json:
        console.print_json(found.model_dump(mode="json"))
    wanted = [output] if output is not None else [path.with_name("report.html"), path.with_name("report.md")]
    for file in wanted:
        _write(file, found)
    if json:
        return
    from hwsim.report.terminal import print_details, print_report

    print_report(found, console.out(), wanted)
    if full:
        print_details(found, console.out())


def _write(file: Path, found: "Report") -> None:
    from hwsim import files
    from hwsim.report.render import to_html, to_markdown

    if file.suffix == ".json":
        text = found.model_dump_json(indent=1) + "\n"
    else:
        text = to_html(found) if file.suffix == ".html" else to_markdown(found)
    files.write_text(file, text)


def _named(plans: list[str]) -> "list[tuple[str, Report]]":
    """The reports under names that differ: the directory where that tells them apart, else the whole path."""
    if len(plans) < 2:
        raise UserError("--compare: give at least two plan directories")
    paths = [_report_file(plan) for plan in plans]
    short = [path.resolve().parent.name if path.name == "report.json" else path.stem for path in paths]
    names = short if len(set(short)) == len(short) else plans
    if len(set(names)) < len(names):
        raise UserError("--compare: a plan is given twice; name each directory once")
    return [(name, _read(path)) for name, path in zip(names, paths, strict=True)]


def _compare(named: "list[tuple[str, Report]]", output: Path | None, json: bool) -> None:
    from hwsim import files
    from hwsim.report.compare import side_by_side, table, verdict
    from hwsim.report.render import comparison_html, comparison_markdown

    found = side_by_side(named)
    document = found.model_dump(mode="json")
    if output is not None:
        if output.suffix == ".json":
            text = found.model_dump_json(indent=1) + "\n"
        else:
            text = comparison_html(named) if output.suffix == ".html" else comparison_markdown(named)
        files.write_text(output, text)
    if json:
        console.print_json(document)
        return
    from rich.markup import escape

    from hwsim.report.terminal import print_table

    out = console.out()
    kept = table(found)
    print_table(kept.picked([c.title for c in kept.columns if c.title not in ("model", "target")]), out)
    for line in verdict(found):
        out.print(escape(line))
    for line in found.notes:
        out.print(f"[yellow]note: {escape(line)}[/]")
    if output is not None:
        out.print(f"file: {escape(str(output))}")
