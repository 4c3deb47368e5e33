"""Templates, and what keeps a page inert: escaped text, data islands, and a policy that allows no network.

Text of a record reaches a page in two ways: as text of an element, escaped by jinja2, or inside a data island, JSON in
which ``<`` is an escape sequence, read by the page's script and shown as text content only.
"""

import base64
import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from timm_lipschitz.leaderboard._escape import one_line

LIBRARIES = ("vega.min.js", "vega-lite.min.js", "vega-interpreter.js")
TABLE_LIBRARY = "dataTables.min.js"
LICENCES = ("vega.LICENSE", "vega-lite.LICENSE", "d3.LICENSE", "dataTables.LICENSE")
_PACKAGE = "timm_lipschitz.leaderboard.site"
OWN_ASSETS = ("site.css", "site.js")
_NOTHING_ELSE = "default-src 'none'; img-src data:; base-uri 'none'; form-action 'none'"


@dataclass(frozen=True)
class Page:
    """One page to render.

    Attributes:
        template: its template.
        title: of the document.
        root: relative path from the page to the top of the site, ``""`` or ``"../../"``.
        scripts: names of the files that it runs, in this order, before the site's own.
        island: what its script reads, None where nothing is drawn.
        context: variables of the template.
    """

    template: str
    title: str
    root: str
    scripts: Sequence[str]
    island: dict[str, Any] | None
    context: dict[str, Any]


def render(page: Page, *, standalone: bool = False) -> str:
    """The page as HTML. It loads its style and scripts from the site's ``assets``, or holds them if ``standalone``."""
    scripts = [*page.scripts, "site.js"] if page.island is not None else []
    inline = standalone and {name: asset(name) for name in ("site.css", *scripts)}
    return (
        _environment()
        .get_template(page.template)
        .render(
            title=one_line(page.title),
            root=page.root,
            scripts=scripts,
            inline=inline,
            policy=_inline_policy(scripts) if standalone else _site_policy(),
            island=None if page.island is None else json_island(page.island),
            **page.context,
        )
    )


def json_island(data: dict[str, Any]) -> str:
    """JSON that is safe inside ``<script type="application/json">``: it holds no ``<``, ``>`` or ``&``."""
    text = json.dumps(data, allow_nan=False, separators=(",", ":"), sort_keys=True)  # ASCII: the rest is escaped
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


@cache
def asset(name: str) -> str:
    """Text of a file that pages load."""
    folder = "assets" if name in OWN_ASSETS else "vendor"
    return (files(_PACKAGE) / folder / name).read_text(encoding="utf-8")


def _site_policy() -> str:
    # 'self' is no origin for a page opened from a file system in every browser; file: is none for one from a server.
    return f"{_NOTHING_ELSE}; script-src 'self' file:; style-src 'self' file:"


def _inline_policy(scripts: Sequence[str]) -> str:
    return f"{_NOTHING_ELSE}; script-src {' '.join(map(_digest, scripts)) or _NONE}; style-src {_digest('site.css')}"


_NONE = "'none'"


@cache
def _digest(name: str) -> str:
    """The hash by which a policy allows an inlined file."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(asset(name).encode()).digest()).decode()}'"


@cache
def _environment() -> Any:
    import jinja2
    from markupsafe import Markup

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader(_PACKAGE, "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["line"] = lambda text: one_line(str(text))
    # the name of a model, which may go on in the next line behind a dot, a hyphen or an underscore
    environment.filters["name"] = lambda text: Markup("<wbr>").join(re.split(r"(?<=[._-])", one_line(str(text))))
    return environment
