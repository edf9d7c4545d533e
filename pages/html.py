"""HTML pages from templates: one file that needs no network.

`page.html.j2` is the frame that a page's template extends, `parts.html.j2` its tables and figures.
Templates escape every text; only figures and other `Markup` are taken as they are.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2

_TEMPLATES = Path(__file__).with_name("templates")


def render(templates: Path, name: str, context: Mapping[str, Any]) -> str:
    """The page of the template `name` in the folder `templates`.

    Args:
        context: what the template asks for, and what the frame does: `light` and `dark` (role ->
            colour), `contents` (pairs of a section's id and its heading) and `version`.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([templates, _TEMPLATES]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["unbroken"] = _unbroken
    return environment.get_template(name).render(context)


def _unbroken(text: str) -> str:
    """The text with no line break between a number and its per cent sign."""
    return text.replace(" %", "\N{NO-BREAK SPACE}%")
