"""``report``: render reports again from ``report.json``, and put several side by side."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hwsim import files
from hwsim.errors import UserError

if TYPE_CHECKING:
    from hwsim.report.compare import SideBySide
    from hwsim.report.document import Report

FORMATS = (".html", ".md", ".json")


@dataclass(frozen=True)
class ReportResult:
    """The reports by name, how they compare where that was asked, and the files that were written."""

    reports: "dict[str, Report]"
    comparison: "SideBySide | None"
    files: tuple[Path, ...]

    def _repr_html_(self) -> str:
        from hwsim.report import notebook

        return notebook.reports(self)


def run_report(
    plans: Sequence[str | Path], *, compare: bool = False, output: Path | None = None
) -> ReportResult:
    """Render each plan's report again, or one comparison of all."""
    if output is not None and output.suffix not in FORMATS:
        raise UserError(f"--output {output}: the ending says the format; use one of {', '.join(FORMATS)}")
    if compare:
        return _compare([str(plan) for plan in plans], output)
    if len(plans) > 1 and output is not None:
        raise UserError(f"{len(plans)} plans and --output: add --compare, or give one plan")
    reports: dict[str, Report] = {}
    written: list[Path] = []
    for plan in map(str, plans):
        path = report_file(plan)
        found = read_report(path)
        reports[plan] = found
        wanted = rendered_files(path) if output is None else [output]
        for file in wanted:
            write_report(file, found)
        written += wanted
    return ReportResult(reports, None, tuple(written))


def rendered_files(path: Path) -> list[Path]:
    """What is rendered beside a ``report.json``."""
    return [path.with_name("report.html"), path.with_name("report.md")]


def report_file(plan: str) -> Path:
    """The ``report.json`` of a plan's directory, or the file itself."""
    path = Path(plan)
    path = path / "report.json" if path.is_dir() else path
    if not path.exists():
        raise UserError(f"{plan}: no report.json here; give a directory that `hwsim plan` wrote")
    return files.existing_file(path, "PLAN_DIR")


def read_report(path: Path) -> "Report":
    """A report document; a mistake names the first field that is wrong."""
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


def write_report(file: Path, found: "Report") -> None:
    """Write the rendering that the file's ending says."""
    from hwsim.report.render import to_html, to_markdown

    if file.suffix == ".json":
        text = found.model_dump_json(indent=1) + "\n"
    else:
        text = to_html(found) if file.suffix == ".html" else to_markdown(found)
    files.write_text(file, text)


def _compare(plans: list[str], output: Path | None) -> ReportResult:
    from hwsim.report.compare import side_by_side
    from hwsim.report.render import comparison_html, comparison_markdown

    named = _named(plans)
    found = side_by_side(named)
    if output is not None:
        if output.suffix == ".json":
            text = found.model_dump_json(indent=1) + "\n"
        else:
            text = comparison_html(named) if output.suffix == ".html" else comparison_markdown(named)
        files.write_text(output, text)
    return ReportResult(dict(named), found, () if output is None else (output,))


def _named(plans: list[str]) -> "list[tuple[str, Report]]":
    """The reports under names that differ: the directory where that tells them apart, else the whole path."""
    if len(plans) < 2:
        raise UserError("--compare: give at least two plan directories")
    paths = [report_file(plan) for plan in plans]
    short = [path.resolve().parent.name if path.name == "report.json" else path.stem for path in paths]
    names = short if len(set(short)) == len(short) else plans
    if len(set(names)) < len(names):
        raise UserError("--compare: a plan is given twice; name each directory once")
    return [(name, read_report(path)) for name, path in zip(names, paths, strict=True)]
