"""HTML and Markdown: every section in order, valid structure, odd names, missing figures, large models."""

import re
from html.parser import HTMLParser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwsim.report import figures
from hwsim.report.render import comparison_html, comparison_markdown, to_html, to_markdown
from hwsim.report.sections import SECTIONS
from tests.hwsim.report.report_samples import SCHEMES, bare, layer_row, sample

VOID = {"meta", "link", "br", "hr", "img", "input"}
ODD = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=30)
ORDER = [
    "Verdict", "not honoured", "Comparison", "Layers", "Frontier", "Sensitivity", "Roofline", "Timeline", "Predicted",
    "Anytime", "Memory", "Not obtained", "Provenance", "reproduce",
]  # fmt: skip


class Page(HTMLParser):
    """Balanced tags, ids, references and cells of a page."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.ids: list[str] = []
        self.references: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.headings: list[str] = []
        self.rows: dict[str, list[list[str]]] = {}
        self._table = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        assert len(found) == len(attrs), f"attribute given twice on {tag}"
        self.tags.append((tag, found))
        if tag not in VOID:
            self.open.append(tag)
        if "id" in found:
            self.ids.append(found["id"])
        for name in ("aria-labelledby", "aria-describedby"):
            self.references += (found.get(name) or "").split()
        if (found.get("href") or "").startswith("#"):
            self.references.append(found["href"][1:])
        if tag == "table":
            self._table = found.get("id", "")
            self.rows[self._table] = []
        if tag == "tr" and self._table:
            self.rows[self._table].append([])
        if tag in ("td", "th"):
            self.rows[self._table][-1].append("")
        if tag == "h2":
            self.headings.append("")

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"</{tag}> closes another element"

    def handle_data(self, data):
        if self.open and self.open[-1] in ("td", "th"):
            self.rows[self._table][-1][-1] += data
        if self.open and self.open[-1] == "h2":
            self.headings[-1] += data


def checked(text: str) -> Page:
    page = Page(text)
    assert not page.open, "elements left open"
    assert len(page.ids) == len(set(page.ids)), "an id is used twice"
    assert set(page.references) <= set(page.ids), "a reference leads nowhere"
    for tag, attributes in page.tags:
        assert not {"src", "onclick", "onload"} & set(attributes), f"{tag} reaches outside"
        if tag == "svg":
            assert attributes["role"] == "img" and attributes["aria-labelledby"]
        if attributes.get("role") == "region":
            assert attributes["aria-label"] and attributes["tabindex"] == "0"
    labels = [found["aria-label"] for _, found in page.tags if found.get("role") == "region"]
    assert len(labels) == len(set(labels)), "two regions with one label"
    for rows in page.rows.values():
        assert len({len(row) for row in rows}) == 1, "ragged table"
    return page


@pytest.mark.parametrize("make", [sample, bare])
def test_every_section_in_order(make):
    report = make()
    headings = checked(to_html(report)).headings
    assert headings == [section.title for section in SECTIONS]
    assert re.findall(r"^## (.*)$", to_markdown(report), re.M) == headings
    assert len(headings) == len(ORDER)
    for heading, word in zip(headings, ORDER, strict=True):
        assert word in heading


def test_missing_figures_say_so_with_their_reason():
    report = bare()
    for text in (to_html(report), to_markdown(report)):
        assert "not asked for" in text
        assert text.count("Not obtained: this report was made without it") >= 2
        assert "not measured: this report was made without it" in text
    assert "<svg" not in to_html(report).partition('id="frontier"')[2].partition("</section>")[0]


def test_every_chart_has_named_axes_with_units():
    drawn = figures.all_figures(sample())
    assert all(drawn.values())
    units = {
        "time_by_layer": ["(us)"], "pareto": ["(ms)", "(nats)"], "sensitivity": ["(nats)"],
        "roofline": ["(MAC/B)", "MAC/s)"], "timeline": ["(us)"], "prediction": ["(cycles)"],
        "anytime": ["(ms)", "(nats)"], "memory": ["(us)", "(KiB)"],
    }  # fmt: skip
    for name, svg in drawn.items():
        for unit in units[name]:
            assert unit in svg, (name, unit)
    assert set(units) == set(drawn)


def test_the_choice_of_the_plan_is_outlined_in_the_sensitivity_map():
    report = sample()
    outline = re.search(r'class="outline" d="([^"]*)"', figures.sensitivity(report))
    assert outline is not None
    chosen = [row.scheme for row in report.layers if row.is_product]
    boxes = re.findall(r"M([\d.]+) ([\d.]+)h", outline.group(1))
    assert len(boxes) == len(chosen)
    columns = sorted({float(x) for x, _ in boxes})
    by_row = [columns.index(float(x)) for x, _ in sorted(boxes, key=lambda box: float(box[1]))]
    order = sorted({SCHEMES.index(scheme) for scheme in chosen})
    assert by_row == [order.index(SCHEMES.index(scheme)) for scheme in chosen]


@settings(max_examples=25, deadline=None)
@given(name=ODD, reason=ODD)
def test_odd_names_stay_text(name, reason):
    report = sample(name=name, layers=2, unavailable={reason: name}, warnings=[name], not_honoured=[reason])
    report = report.model_copy(update={"layers": [layer_row(0, name), layer_row(1)]})
    page = checked(to_html(report))
    assert page.rows["table-layers"][1][0] == name
    text = to_markdown(report)
    tables = [line for line in text.splitlines() if line.startswith("|")]
    widths = {len(re.sub(r"\\.", "", line).split("|")) for line in tables if "MACs (M)" in line}
    rows = [line for line in tables if "| linear |" in line]
    assert len(rows) == 2 and {len(re.sub(r"\\.", "", line).split("|")) for line in rows} == widths
    assert "<script" not in text


def test_hostile_name_is_not_executed():
    name = '"><script>alert(1)</script><img src=x onerror=alert(1)>|`${7}`'
    page = checked(to_html(sample(name=name)))
    assert [tag for tag, _ in page.tags].count("script") == 1
    assert "img" not in {tag for tag, _ in page.tags}


@pytest.mark.parametrize(("layers", "units"), [(1000, 16), (3000, 4)])
def test_thousand_layers_stay_small(layers, units):
    text = to_html(sample(layers=layers, units=units))
    assert len(text.encode()) < 1_500_000
    page = checked(text)
    assert len(page.rows["table-layers"]) == layers + 1
    assert len(page.tags) < 30 * layers  # what a browser must lay out


def test_same_report_same_bytes():
    assert to_html(sample()) == to_html(sample())
    assert to_markdown(sample()) == to_markdown(sample())


def test_side_by_side_renderings():
    named = [("a|b", sample()), ("<i>", sample(name="other")), ("bare", bare())]
    page = checked(comparison_html(named))
    assert [row[0] for row in page.rows["table-plans"][1:]] == ["a|b", "<i>", "bare"]
    text = comparison_markdown(named)
    assert "a\\|b" in text and "<i>" not in text
