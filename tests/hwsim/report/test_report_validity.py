"""The pages are valid HTML by a validator that is not ours: HTML Tidy (Debian's ``tidy``)."""

import shutil
import subprocess

import pytest

from hwsim.report.render import comparison_html, to_html
from tests.hwsim.report.report_samples import bare, sample

pytestmark = pytest.mark.skipif(
    shutil.which("tidy") is None, reason="no tidy on the path (apt-get install tidy)"
)
# Tidy takes the title of a drawing for the title of the page, which has no id; SVG allows it there. And a table
# body without rows, which it warns of, is valid HTML.
KNOWN = ('<title> proprietary attribute "id"', "trimming empty <tbody>")


def complaints(page: str) -> list[str]:
    done = subprocess.run(
        ["tidy", "-q", "-e", "-utf8"], input=page, capture_output=True, text=True, check=False
    )
    return [
        line
        for line in done.stderr.splitlines()
        if line.strip() and not any(known in line for known in KNOWN)
    ]


@pytest.mark.parametrize(
    "make",
    [
        lambda: to_html(sample(layers=45)),
        lambda: to_html(bare()),
        lambda: to_html(sample(name='<&"> `odd` ü')),
        lambda: comparison_html([("a", sample()), ("b", sample(name="other"))]),
    ],
    ids=["report", "bare", "odd names", "comparison"],
)
def test_pages_are_valid(make):
    assert complaints(make()) == []


def test_the_validator_sees_mistakes():
    page = to_html(bare())
    assert complaints(page.replace("</h1>", "", 1))
    assert complaints(page.replace("<main>", '<main colour="red">', 1))
