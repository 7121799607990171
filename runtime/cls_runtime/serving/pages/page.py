"""An HTML page in one piece: its style and its script are in it, and its headers let the browser load nothing else."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from string import Template

from starlette.responses import Response

MEDIA_TYPE = "text/html; charset=utf-8"


def page(template: str, script: str, values: Mapping[str, str]) -> Response:
    """The page of a template.

    Args:
        template: the name of a file beside this one, with `$name` where something goes.
        script: the same, of the script.
        values: what goes there, HTML already.
    """
    style, code = _file("page.css"), _file(script)
    body = Template(_file(template)).substitute(values, style=style, script=code)
    policy = (
        f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(code)}; connect-src 'self'; img-src data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    headers = {
        "content-security-policy": policy,
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
        "cache-control": "no-cache",
    }
    return Response(body, headers=headers, media_type=MEDIA_TYPE)


@cache
def _file(name: str) -> str:
    return (Path(__file__).parent / name).read_text(encoding="utf-8")


@cache
def _hash(content: str) -> str:
    """As a policy names what stands between two tags."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"
