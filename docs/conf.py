"""Sphinx: furo, Markdown by myst, pages made from the code on every build."""

import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

project = "hwsim"
copyright = "the hwsim authors"
release = metadata.version("hwsim")
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
myst_enable_extensions = ["dollarmath", "amsmath"]
myst_heading_anchors = 3
html_theme = "furo"
html_math_renderer = "mathml"
html_title = "hwsim"
autodoc_typehints = "description"
autodoc_member_order = "bysource"


def visit_math(translator: Any, node: nodes.math | nodes.math_block) -> None:
    """Formulas as MathML, which browsers draw themselves: no script, no network."""
    block = isinstance(node, nodes.math_block)
    formula = tex2mathml(node.astext(), as_block=block)
    translator.body.append(
        f"<div class='formula' style='overflow: auto hidden'>{formula}</div>" if block else formula
    )
    raise nodes.SkipNode


def setup(app: Any) -> None:
    """Write the generated pages before Sphinx looks for sources."""
    import generate

    generate.write(HERE / "reference")
    app.add_html_math_renderer("mathml", (visit_math, None), (visit_math, None))
