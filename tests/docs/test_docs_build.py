"""The documentation builds without a warning, and the generated reference names everything."""

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def pages():
    sys.path.insert(0, str(ROOT / "docs"))
    try:
        import generate
    finally:
        sys.path.remove(str(ROOT / "docs"))
    return generate.pages()


def test_builds_without_warnings(tmp_path):
    build = pytest.importorskip("sphinx.cmd.build", reason="the docs extra is not installed")
    # One process: the warning count of -W would be lost in a forked reader.
    assert build.main(["-W", "--keep-going", "-q", "-b", "html", str(ROOT / "docs"), str(tmp_path)]) == 0
    for name in ("index", "tutorial", "reference/cli", "reference/plan"):
        assert (tmp_path / f"{name}.html").stat().st_size > 10_000, name


def test_every_flag_of_every_verb_is_in_the_reference(pages):
    from hwsim.cli.common import walk
    from hwsim.cli.main import command

    for words, verb in walk(command()):
        name = " ".join(("hwsim", *words))
        assert f"`{name}`" in pages["cli.md"] or not words, name
        for param in verb.params:
            for option in param.opts:
                assert option in pages["cli.md"] or option == "-h" or not option.startswith("-"), (
                    name,
                    option,
                )


def test_every_field_of_every_document_is_in_the_reference(pages):
    from hwsim.report.document import json_schema as report_schema
    from hwsim.target.schema import json_schema as target_schema
    from planner.plan import Plan

    schemas = {"target": target_schema(), "plan": Plan.model_json_schema(), "report": report_schema()}
    for page, schema in schemas.items():
        for part in (schema, *schema["$defs"].values()):
            for field in part.get("properties", {}):
                assert f"| `{field}` |" in pages[f"{page}.md"], (page, field)
