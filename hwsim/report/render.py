"""Report to HTML and Markdown through jinja2 templates; nothing is computed in the templates."""

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from hwsim.report import format as fmt
from hwsim.report import plots
from hwsim.report.document import Report


def _environment(autoescape: bool) -> Environment:
    return Environment(
        loader=PackageLoader("hwsim.report"),
        autoescape=autoescape,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def to_html(report: Report) -> str:
    """One file, no network, readable without JavaScript."""
    figures = {
        "time_by_layer": Markup(plots.time_by_layer(report)),
        "pareto": Markup(plots.pareto(report)),
        "timeline": Markup(plots.timeline(report)) if report.timeline else "",
    }
    return (
        _environment(autoescape=True)
        .get_template("report.html.j2")
        .render(report=report, figures=figures, fmt=fmt)
    )


def to_markdown(report: Report) -> str:
    """For code reviews: the same sections without figures."""
    return _environment(autoescape=False).get_template("report.md.j2").render(report=report, fmt=fmt)
