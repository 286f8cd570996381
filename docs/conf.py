"""How the documentation is built: pages executed, docstrings read, warnings fatal."""

from __future__ import annotations

import re

from minirnn.version import __version__

project = "minirnn"
author = "the minirnn authors"
copyright = "2026, the minirnn authors"
version = release = __version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.viewcode"]
exclude_patterns = ["_build"]
myst_enable_extensions = ["dollarmath", "colon_fence", "deflist"]

# Every page's code runs in every build, and an exception in it fails the build.
nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_show_tb = True
nb_execution_timeout = 300
nb_merge_streams = True

# Docstrings write code in single backticks.
default_role = "code"
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {"members": True, "show-inheritance": True}

html_theme = "furo"
html_title = f"minirnn {release}"
html_static_path = ["_static"]
html_css_files = ["page.css"]


def escape_prose(app, what, name, obj, options, lines: list[str]) -> None:
    """Keep reStructuredText from reading markup into docstrings, which are prose with code in backticks.

    What is indented after a paragraph that ends with a colon is code as well.
    """
    verbatim, before = "", ""
    for number, line in enumerate(lines):
        blank_above = number > 0 and not lines[number - 1]
        if line.lstrip().startswith(">>>"):
            verbatim = "an example"
        elif not verbatim and blank_above and before.endswith(":") and line.startswith("    "):
            verbatim = "a literal block"
            if not before.endswith("::"):
                lines[number - 2] += ":"
        elif (verbatim == "an example" and not line) or (verbatim == "a literal block" and re.match(r"\S", line)):
            verbatim = ""
        before = line or before
        if not verbatim:
            outside_code = re.compile(r"(`[^`]*`)|([*|]|_(?!\w))")
            lines[number] = outside_code.sub(lambda found: found[1] or "\\" + found[2], line)


def setup(app) -> None:
    """Called by Sphinx."""
    app.connect("autodoc-process-docstring", escape_prose)
