"""The example notebook runs from top to bottom and shows what it is stored with."""

import importlib.util
import json
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOK = ROOT / "examples/plan.ipynb"


def runner():
    spec = importlib.util.spec_from_file_location("run_notebook", ROOT / "examples/run_notebook.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def kinds(notebook: dict) -> list[list[str]]:
    """What each cell shows: printed text, or the forms of its value."""
    return [
        [
            kind
            for output in cell.get("outputs", [])
            for kind in ([output["name"]] if "name" in output else output["data"])
        ]
        for cell in notebook["cells"]
    ]


def test_all_cells_run(tmp_path):
    stored = json.loads(NOTEBOOK.read_text())
    fresh = runner().run(stored, tmp_path)
    assert kinds(fresh) == kinds(stored)
    assert any("text/html" in shown for shown in kinds(fresh))
    by_text = {"".join(cell["source"]): cell.get("outputs", []) for cell in fresh["cells"]}
    winner = next(shown for source, shown in by_text.items() if source.startswith("int(network"))
    ran = next(shown for source, shown in by_text.items() if "hwsim.run(" in source)
    assert f"<td>{''.join(winner[0]['data']['text/plain'])}</td>" in "".join(ran[0]["data"]["text/html"])
    assert (tmp_path / "out/own/artifact/manifest.json").is_file()


def test_it_is_a_notebook():
    stored = json.loads(NOTEBOOK.read_text())
    assert (stored["nbformat"], stored["metadata"]["kernelspec"]["name"]) == (4, "python3")
    assert len({cell["id"] for cell in stored["cells"]}) == len(stored["cells"])
    assert "/tmp" not in NOTEBOOK.read_text()
