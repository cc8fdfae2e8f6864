"""Sphinx: furo, Markdown by myst, pages made from the code on every build."""

import sys
from importlib import metadata
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

project = "hwsim"
copyright = "the hwsim authors"
release = metadata.version("hwsim")
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.mathjax"]
exclude_patterns = ["_build"]
myst_enable_extensions = ["dollarmath", "amsmath"]
myst_heading_anchors = 3
html_theme = "furo"
html_title = "hwsim"
autodoc_typehints = "description"
autodoc_member_order = "bysource"


def setup(app: object) -> None:
    """Write the generated pages before Sphinx looks for sources."""
    import generate

    generate.write(HERE / "reference")
