"""Sphinx: the pages of docs/, and the reference from the docstrings."""

from __future__ import annotations

import importlib.metadata
import pkgutil

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.ext.napoleon.docstring import GoogleDocstring
from sphinx.pycode import ModuleAnalyzer

import qorb_trio

project = "qorb_trio"
author = "the qorb_trio maintainers"
copyright = f"2026, {author}"
release = version = importlib.metadata.version("qorb-trio")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"qorb_trio {version}"

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

# `Pool` in a docstring is a link where there is something to link to.
default_role = "py:obj"
# ... and for a public name there must be something; other projects are not looked up.
nitpicky = True
nitpick_ignore_regex = [
    (r"py:.*", r"(attrs|collections|dns|h11|httpx2?|logging|opentelemetry|os|psycopg|random)\..*"),
    (r"py:.*", r"(socket|sqlite3|ssl|sys|traceback|trio|types|typing)\..*"),
    (r"py:.*", r"(.*\.)?[A-Z]"),  # type variables
    # names that only annotations use
    (r"py:class", r"\w+(Like|Hook|State)|Hook|Key|Probe|ServerHostname|TlsStream|Transport|Ts"),
    (r"py:class", r"AbstractAsyncContextManager|AdaptContext|AsyncRowFactory|ConnParam|Row|_Ends"),
    (r"py:class", r"qorb_trio\.(\w+\.)?_.*"),
    (r"py:obj", r"[a-z_]\w*|None|True|False"),  # arguments, and members of the class at hand
]
add_module_names = False
autodoc_member_order = "bysource"
autodoc_class_signature = "mixed"
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
python_display_short_literal_types = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
# The docstring of an attribute is a sentence, and what stands before its colon not a type.
GoogleDocstring._parse_attribute_docstring = GoogleDocstring._consume_to_end


def lend_attribute_docs() -> None:
    """Let autodoc find the docstrings of attributes.

    It looks for them in the source of the module that a class says it is from, which for
    public classes is a public module, while the source is in a private one.
    """
    public = {
        name: ModuleAnalyzer.for_module(name)
        for name in (
            "qorb_trio",
            "qorb_trio.abc",
            "qorb_trio.http",
            "qorb_trio.opentelemetry",
            "qorb_trio.postgres",
            "qorb_trio.qtop",
            "qorb_trio.redis",
            "qorb_trio.resolvers",
            "qorb_trio.testing",
        )
    }
    for analyzer in public.values():
        analyzer.analyze()
    for module in pkgutil.walk_packages(qorb_trio.__path__, "qorb_trio."):
        if module.name.endswith(".__main__"):
            continue  # to import it would be to run it
        private = ModuleAnalyzer.for_module(module.name)
        private.analyze()
        for analyzer in public.values():
            analyzer.attr_docs.update(private.attr_docs)
            analyzer.tagorder.update(private.tagorder)


def find_public_name(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, text: nodes.TextElement
) -> nodes.reference | None:
    """Let the docstrings of any module link to what `qorb_trio` exports."""
    if node.get("refdomain") != "py":
        return None
    target = f"qorb_trio.{node['reftarget']}"
    return env.domains.python_domain.resolve_xref(
        env, node["refdoc"], app.builder, "obj", target, node, text
    )


def setup(app: Sphinx) -> None:
    """Sphinx calls this once."""
    lend_attribute_docs()
    app.connect("missing-reference", find_public_name)
