"""Report to HTML and Markdown through jinja2 templates; nothing is computed in the templates."""

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from hwsim.report import compare, figures, tables
from hwsim.report import format as fmt
from hwsim.report.document import Report
from hwsim.report.sections import SECTIONS

if TYPE_CHECKING:
    from jinja2 import Environment

_MARKDOWN = re.compile(r"([\\|`*\[\]])")


def environment(autoescape: bool) -> "Environment":
    """Templates of this package; what a template asks for and does not get is an error."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    made = Environment(
        loader=PackageLoader("hwsim.report"),
        autoescape=autoescape,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["cell"] = markdown_cell
    made.filters["one_line"] = _one_line
    return made


def _one_line(text: str) -> str:
    return " ".join(text.split())


def markdown_cell(text: str) -> str:
    """Text that stays text, on one line, inside or outside a Markdown table."""
    escaped = _MARKDOWN.sub(r"\\\1", _one_line(text))
    return escaped.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def report_tables(report: Report) -> dict[str, tables.Table]:
    """Every table by name."""
    makers = (
        tables.comparison, tables.layers, tables.frontier, tables.sensitivity, tables.furthest, tables.measured,
        tables.anytime, tables.energy,
    )  # fmt: skip
    made = [maker(report) for maker in makers]
    return {table.name: table for table in made}


def _words(report: Report) -> dict[str, Any]:
    return {
        "report": report,
        "fmt": fmt,
        "sections": SECTIONS,
        "tables": report_tables(report),
        "provenance": tables.provenance(report),
        "memory_lines": tables.memory_lines(report),
        "within_bound": tables.within_bound(report),
        "reproduce": report.reproduce or [report.provenance.command],
    }


def to_html(report: Report) -> str:
    """One file, no network, readable without JavaScript."""
    from markupsafe import Markup

    drawn = {name: Markup(svg) for name, svg in figures.all_figures(report).items()}
    words = _words(report) | {"figures": drawn, "shown_layers": _shown_layers(report)}
    return environment(autoescape=True).get_template("report.html.j2").render(words).lstrip()


def _shown_layers(report: Report) -> str:
    found = report.sensitivity
    if found is None or len(found.layers) <= figures.SHOWN_LAYERS:
        return ""
    return f"The {figures.SHOWN_LAYERS} most sensitive of {len(found.layers)} layers; all are in report.json."


def to_markdown(report: Report) -> str:
    """For code reviews: the same sections without figures."""
    text = environment(autoescape=False).get_template("report.md.j2").render(_words(report))
    return re.sub(r"\n{3,}", "\n\n", text).lstrip()


def comparison_html(named: Sequence[tuple[str, Report]]) -> str:
    """Several reports side by side, one file."""
    from markupsafe import Markup

    words = _comparison_words(named)
    words["entries"] = replace(words["entries"], sortable=True)
    words["chart"] = Markup(compare.chart(words["found"]))
    return environment(autoescape=True).get_template("compare.html.j2").render(words).lstrip()


def comparison_markdown(named: Sequence[tuple[str, Report]]) -> str:
    """Several reports side by side, for code reviews."""
    text = environment(autoescape=False).get_template("compare.md.j2").render(_comparison_words(named))
    return re.sub(r"\n{3,}", "\n\n", text).lstrip()


def _comparison_words(named: Sequence[tuple[str, Report]]) -> dict[str, Any]:
    found = compare.side_by_side(named)
    forms = [
        replace(
            tables.comparison(report),
            name=f"forms-{index}",
            caption=f"{name}: {report.model} on {report.target}",
        )
        for index, (name, report) in enumerate(named)
    ]
    entries = compare.table(found)
    return {"found": found, "entries": entries, "forms": forms, "verdict": compare.verdict(found)}
