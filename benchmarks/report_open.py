"""How long a browser takes to open a report of many layers, from a file, until it is laid out and sortable.

python benchmarks/report_open.py --layers 1000 --rounds 5

The report is the largest kind: every section and chart, 16 units. Times are what the page itself reports
(``performance.now`` at the end of its load event, after a forced layout), so the browser's own start is left out.
"""

import argparse
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PROBE = """<script>addEventListener("load", () => setTimeout(() => {
  document.body.offsetHeight;
  document.title = `opened in ${performance.now()} ms`;
}));</script></body>"""


def opened(page: Path, browser: str) -> float:
    """Milliseconds of one fresh browser."""
    with tempfile.TemporaryDirectory() as profile:
        command = [
            browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--dump-dom",
            "--timeout=60000", f"--user-data-dir={profile}", page.as_uri(),
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    found = re.search(r"<title>opened in ([\d.]+) ms", done.stdout)
    assert found is not None, done.stdout[:200]
    return float(found.group(1))


def main() -> None:
    """Print one line of Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        sys.exit("no chromium on the path (apt-get install chromium)")
    sys.path.insert(0, str(ROOT))
    from hwsim.report.render import to_html
    from tests.hwsim.report.report_samples import sample

    text = to_html(sample(layers=given.layers, units=16)).replace("</body>", PROBE)
    with tempfile.TemporaryDirectory() as scratch:
        page = Path(scratch) / "report.html"
        page.write_text(text, encoding="utf-8")
        times = [opened(page, browser) for _ in range(given.rounds)]
    print(
        f"{given.layers} layers, {len(text) / 1e6:.2f} MB: median {statistics.median(times):.0f} ms, "
        f"slowest {max(times):.0f} ms of {given.rounds} fresh browsers"
    )


if __name__ == "__main__":
    main()
