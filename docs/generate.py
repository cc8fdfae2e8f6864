"""Pages made from the code when the documentation is built: the command line, and the documents' schemas."""

import json
import re
from pathlib import Path
from textwrap import dedent
from typing import Any

Schema = dict[str, Any]
EXAMPLES = re.compile(r"\x08\nExamples:\n((?:  .*\n)+)")
WORDS = {
    "number": "number",
    "integer": "integer",
    "string": "text",
    "boolean": "true or false",
    "null": "nothing",
}


def anchor(page: str, name: str) -> str:
    """Label of one document of a page."""
    return f"{page}-{name.lower()}"


def type_of(page: str, schema: Schema) -> str:
    """A JSON Schema type in words, other documents of the page as links."""
    if "$ref" in schema:
        name = schema["$ref"].rsplit("/", 1)[-1]
        return f"[{name}](#{anchor(page, name)})"
    if "const" in schema or "enum" in schema:
        return " ".join(f"`{json.dumps(value)}`" for value in schema.get("enum", [schema.get("const")]))
    for union in ("anyOf", "oneOf"):
        if union in schema:
            return " or ".join(dict.fromkeys(type_of(page, part) for part in schema[union]))
    if schema.get("type") == "array":
        parts = schema.get("prefixItems")
        inner = (
            ", ".join(type_of(page, part) for part in parts)
            if parts
            else type_of(page, schema.get("items", {}))
        )
        return f"list of {inner}"
    if schema.get("type") == "object":
        values = schema.get("additionalProperties")
        return f"mapping to {type_of(page, values)}" if isinstance(values, dict) else "mapping"
    return WORDS.get(str(schema.get("type")), "any")


def table_of(page: str, schema: Schema) -> str:
    """One document: its sentence and a row for each field."""
    required = schema.get("required", [])
    rows = ["| field | type | default | meaning |", "|---|---|---|---|"]
    for name, field in schema.get("properties", {}).items():
        default = f"`{json.dumps(field['default'])}`" if "default" in field else "empty"
        default = "required" if name in required else default
        meaning = " ".join(field.get("description", "").split()).replace("|", "\\|")
        rows.append(f"| `{name}` | {type_of(page, field)} | {default} | {meaning} |")
    text = " ".join(schema.get("description", "").split())
    return "\n".join([text, "", *rows] if schema.get("properties") else [text or type_of(page, schema)])


def schema_page(page: str, title: str, introduction: str, schema: Schema) -> str:
    """A page for one schema: the document itself, then every part that it refers to."""
    parts = [f"# {title}", introduction, table_of(page, schema)]
    for name, part in schema.get("$defs", {}).items():
        parts.append(f"({anchor(page, name)})=\n## {name}\n\n{table_of(page, part)}")
    return "\n\n".join(parts) + "\n"


def command_page() -> str:
    """The command line, as typer describes it; examples as code."""
    import typer
    from typer.cli import get_docs_for_click

    from hwsim.cli.main import command

    with typer.Context(command(), info_name="hwsim") as context:
        text = get_docs_for_click(obj=command(), ctx=context, name="hwsim", title="Command line")
    return EXAMPLES.sub(lambda found: f"**Examples**:\n\n```shell\n{dedent(found[1])}```\n", text)


def pages() -> dict[str, str]:
    """All generated pages by name."""
    from hwsim.report.document import json_schema as report_schema
    from hwsim.target.schema import json_schema as target_schema
    from planner.plan import Plan

    return {
        "cli.md": command_page(),
        "target.md": schema_page(
            "target",
            "Schema of a target",
            "`hwsim target schema` prints it as JSON Schema. What the fields mean for a device: "
            "[describe your own device](../targets.md).",
            target_schema(),
        ),
        "plan.md": schema_page(
            "plan",
            "Schema of a plan",
            "The document in `plan.json`. Seconds, picojoules, bytes, nats.",
            Plan.model_json_schema(),
        ),
        "report.md": schema_page(
            "report",
            "Schema of a report",
            "The document in `report.json`, from which all renderings are made; `hwsim report schema` prints it as "
            "JSON Schema.",
            report_schema(),
        ),
    }


def write(directory: Path) -> None:
    """Write the pages that changed."""
    directory.mkdir(exist_ok=True)
    for name, text in pages().items():
        path = directory / name
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
