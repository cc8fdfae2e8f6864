"""The report in a real browser: headless Chromium loads the page with a probe and hands back the result.

Needs Debian's ``chromium``; the accessibility check also needs axe-core (``node_modules/axe-core`` or the PyPI
package ``axe-core-python``, or the file named by ``HWSIM_AXE``).
"""

import html
import importlib.util
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from hwsim.report.render import comparison_html, to_html
from tests.hwsim.report.report_samples import bare, sample

ROOT = Path(__file__).resolve().parents[3]
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the path (apt-get install chromium)")

WATCH = """<script>
window.problems = [];
addEventListener("error", (event) => problems.push(String(event.message || event.target.outerHTML)), true);
addEventListener("unhandledrejection", (event) => problems.push(String(event.reason)));
for (const kind of ["error", "warn"]) console[kind] = (...words) => problems.push(words.join(" "));
</script>"""
HAND_BACK = """<script>addEventListener("load", async () => {
  let answer;
  try { answer = await (async () => { %s })(); } catch (error) { problems.push(String(error)); }
  const box = document.createElement("pre");
  box.id = "probe";
  box.textContent = JSON.stringify({ answer, problems });
  parent.document.body.append(box);
});</script>"""


def axe_source() -> str:
    places = [os.environ.get("HWSIM_AXE", ""), str(ROOT / "node_modules/axe-core/axe.min.js")]
    package = importlib.util.find_spec("axe_core_python")
    if package is not None and package.origin:
        places.append(str(Path(package.origin).with_name("axe.min.js")))
    for place in filter(None, places):
        if Path(place).is_file():
            return Path(place).read_text(encoding="utf-8")
    pytest.skip("axe-core is not installed (npm install --no-save axe-core, or pip install axe-core-python)")


def chromium(tmp_path: Path, *arguments: str) -> str:
    command = [
        CHROMIUM or "chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
        "--disable-component-update", "--disable-sync", "--no-first-run", "--disable-dev-shm-usage",
        "--virtual-time-budget=30000", f"--user-data-dir={tmp_path / 'profile'}", *arguments,
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def probe(tmp_path: Path, page: str, script: str, *arguments: str, width: int = 1000, head: str = "") -> dict:
    """Run ``script`` (the body of an async function) in the page; its answer and every problem of the page."""
    assert page.count("<head>") == page.count("</body>") == 1
    page = page.replace("<head>", "<head>" + WATCH).replace("</body>", head + HAND_BACK % script + "</body>")
    if width < 500:  # no window of Chromium is narrower than that, but a frame may be
        frame = (
            f'<iframe style="border:0" width="{width}" height="800" srcdoc="{html.escape(page)}"></iframe>'
        )
        page = f"<!doctype html><title>frame</title><body>{frame}</body>"
    file = tmp_path / "page.html"
    file.write_text(page, encoding="utf-8")
    text = chromium(tmp_path, f"--window-size={width},900", "--dump-dom", *arguments, file.as_uri())
    found = re.search(r'<pre id="probe">(.*?)</pre>', text, re.S)
    assert found is not None, text[-500:]
    return json.loads(html.unescape(found.group(1)))


LAYOUT = """
const wide = [];
for (const element of document.querySelectorAll("body *")) {
  if (element.closest(".scroll") && !element.matches(".scroll")) continue;
  const box = element.getBoundingClientRect();
  if (box.width && box.right > innerWidth + 1 && !element.matches(".skip")) wide.push(element.outerHTML.slice(0, 80));
}
return { width: innerWidth, page: document.documentElement.scrollWidth, wide,
  fetched: performance.getEntriesByType("resource").map((entry) => entry.name),
  sections: [...document.querySelectorAll("h2")].map((heading) => heading.getBoundingClientRect().top) };
"""


@pytest.mark.parametrize("width", [400, 1000, 1600])
def test_no_overflow_no_error_no_network(tmp_path, width):
    found = probe(tmp_path, to_html(sample(layers=60)), LAYOUT, width=width)
    assert found["problems"] == []
    answer = found["answer"]
    assert answer["width"] == width
    assert answer["page"] <= answer["width"]
    assert answer["wide"] == []
    assert answer["fetched"] == []
    assert answer["sections"] == sorted(answer["sections"])


def test_long_names_do_not_overflow(tmp_path):
    name = "a_module_with_a_very_long_name_" * 8
    found = probe(tmp_path, to_html(sample(name=name)), LAYOUT, width=400)
    assert found["answer"]["page"] <= found["answer"]["width"]
    assert found["answer"]["wide"] == []


AXE = """
const found = await axe.run(document, { resultTypes: ["violations"] });
return found.violations.map((v) => [v.impact, v.id, v.nodes.slice(0, 3).map((n) => n.html.slice(0, 120))]);
"""


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("page", ["report", "bare", "comparison"])
def test_accessibility(tmp_path, theme, page):
    source = f"<script>{axe_source()}</script>"
    made = {
        "report": lambda: to_html(sample(layers=45)),
        "bare": lambda: to_html(bare()),
        "comparison": lambda: comparison_html([("a", sample()), ("b", sample(name="other"))]),
    }[page]()
    scheme = "--blink-settings=preferredColorScheme=" + ("0" if theme == "dark" else "1")
    answer = probe(tmp_path, made, AXE, scheme, head=source)["answer"]
    assert [violation for violation in answer if violation[0] in ("serious", "critical")] == []


def test_themes_differ(tmp_path):
    script = "return getComputedStyle(document.body).backgroundColor;"
    shown = [
        probe(tmp_path / name, to_html(bare()), script, f"--blink-settings=preferredColorScheme={code}")[
            "answer"
        ]
        for name, code in (("dark", 0), ("light", 1))
        if (tmp_path / name).mkdir() is None
    ]
    assert shown == ["rgb(18, 23, 30)", "rgb(255, 255, 255)"]


SORT = """
const table = document.querySelector("#table-layers");
const heads = [...table.tHead.rows[0].cells];
const column = heads.findIndex((head) => head.textContent.startsWith("predicted"));
const read = () => [...table.tBodies[0].rows].map((row) => row.cells[column].textContent.replace(/\\s/g, ""));
const before = read();
const button = heads[column].querySelector("button");
button.focus();
const focused = document.activeElement === button;
button.click();
const down = [heads[column].getAttribute("aria-sort"), read()];
button.click();
const up = [heads[column].getAttribute("aria-sort"), read()];
const name = heads[0].querySelector("button");
name.click();
return { before, focused, down, up, others: heads[column].getAttribute("aria-sort") };
"""


def test_sorting_by_keyboard_operable_buttons(tmp_path):
    report = sample(layers=30)
    answer = probe(tmp_path, to_html(report), SORT)["answer"]
    cycles = [row.predicted_cycles for row in report.layers]
    assert [float(text) for text in answer["before"]] == cycles
    assert answer["focused"]
    assert answer["down"][0] == "descending"
    assert [float(text) for text in answer["down"][1]] == sorted(cycles, reverse=True)
    assert answer["up"][0] == "ascending"
    assert [float(text) for text in answer["up"][1]] == sorted(cycles)
    assert answer["others"] is None


FOCUS = """
const reachable = [...document.querySelectorAll("a[href], button, [tabindex]")];
const clipped = [...document.querySelectorAll(".scroll")].filter((box) => box.tabIndex !== 0);
const lost = reachable.filter((e) => { e.focus(); return document.activeElement !== e || e.tabIndex < 0; });
const skip = document.querySelector(".skip");
skip.focus();
return { count: reachable.length, clipped: clipped.length, lost: lost.length, first: reachable[0] === skip,
  shown: skip.getBoundingClientRect().left >= 0 };
"""


def test_everything_is_reached_by_keyboard(tmp_path):
    answer = probe(tmp_path, to_html(sample()), FOCUS)["answer"]
    assert answer["count"] > 30
    assert (answer["clipped"], answer["lost"]) == (0, 0)
    assert answer["first"] and answer["shown"]


def test_readable_without_javascript(tmp_path):
    page = to_html(sample())
    bare_page = re.sub(r"<script>.*?</script>", "", page, flags=re.S)
    assert len(bare_page) < len(page)
    found = probe(tmp_path, bare_page, "return document.querySelectorAll('#table-layers tbody tr').length;")
    assert found == {"answer": 6, "problems": []}


def test_thousand_layers_are_laid_out(tmp_path):
    script = (
        "return [document.querySelectorAll('#table-layers tbody tr').length, document.body.offsetHeight];"
    )
    found = probe(tmp_path, to_html(sample(layers=1000, units=8)), script)
    assert found["problems"] == []
    assert found["answer"][0] == 1000
    assert found["answer"][1] < 20_000  # the long table scrolls inside its box


def test_screenshot_and_print(tmp_path):
    file = tmp_path / "report.html"
    file.write_text(to_html(sample(layers=60)), encoding="utf-8")
    picture, pdf = tmp_path / "page.png", tmp_path / "page.pdf"
    chromium(tmp_path, f"--screenshot={picture}", "--window-size=1000,3000", file.as_uri())
    from PIL import Image

    with Image.open(picture) as image:
        assert image.size == (1000, 3000)
        colours = image.convert("RGB").getcolors(1_000_000)
    assert colours is not None and len(colours) > 50  # charts and text, not an empty page
    chromium(tmp_path, f"--print-to-pdf={pdf}", "--no-pdf-header-footer", file.as_uri())
    sizes = re.findall(rb"/MediaBox\s*\[0 0 ([\d.]+) ([\d.]+)\]", pdf.read_bytes())
    assert sizes and all(abs(float(w) - 595) < 2 and abs(float(h) - 842) < 2 for w, h in sizes)  # A4
