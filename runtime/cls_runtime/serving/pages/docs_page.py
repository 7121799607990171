"""/docs: the OpenAPI document as a page that needs no program to be read."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

from starlette.responses import Response

from cls_runtime.serving.pages.page import page
from cls_runtime.serving.pages.start_page import shell_line

Json = Mapping[str, Any]


def docs_page(document: Json) -> Response:
    """The page of a document."""
    operations = [(method.upper(), path, operation) for path, methods in document["paths"].items() for method, operation in methods.items()]
    by_tag = {tag["name"]: [item for item in operations if tag["name"] in item[2]["tags"]] for tag in document["tags"]}
    shown = [(tag, _card(*item, document)) for tag, items in by_tag.items() for item in items]
    types = "".join(_type(name, schema) for name, schema in document["components"]["schemas"].items())
    values = {
        "version": escape(document["info"]["version"]),
        "about": "".join(f'<p class="lead">{_text(part)}</p>' for part in document["info"]["description"].split("\n\n")),
        "index": "".join(_row(method, path, operation) for items in by_tag.values() for method, path, operation in items),
        "operations": "\n".join(card for _, card in shown),
        "types": types,
    }
    return page("docs.html", "origin.js", values)


def _row(method: str, path: str, operation: Json) -> str:
    link = f'<a href="#{escape(operation["operationId"])}"><code>{escape(path)}</code></a>'
    return f"<li>{_badge(method)} {link} <span>{_text(operation['summary'])}</span></li>"


def _card(method: str, path: str, operation: Json, document: Json) -> str:
    name = escape(operation["operationId"])
    parts = [
        f'<section class="card" aria-labelledby="{name}"><h2 id="{name}">{_badge(method)} <code>{escape(path)}</code></h2>',
        f'<p>{_text(operation["summary"])} <span class="note">({escape(", ".join(operation["tags"]))})</span></p>',
    ]
    keys = "security" in operation
    body = operation.get("requestBody", {}).get("content", {}).get("application/json")
    example = None if body is None else body.get("example")
    parts.append(shell_line(re.sub(r"{\w+}", "NAME", path), example, keys=keys))
    if body is not None:
        parts += [_fields("Body", schema) for schema in _objects(body["schema"], document)]
    parts += [_answers(operation["responses"], document), "</section>"]
    return "\n".join(parts)


def _answers(responses: Json, document: Json) -> str:
    head = "".join(f'<th scope="col">{name}</th>' for name in ("Status", "", "Body", "Headers"))
    rows = "".join(_answer(status, _resolved(response, document)) for status, response in responses.items())
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
    return f'<details><summary>Answers</summary><div class="scroll">{table}</div></details>'


def _answer(status: str, response: Json) -> str:
    bodies = "; ".join(
        _words(content["schema"])
        if media == "application/json"
        else f'{_words(content["schema"])} <span class="note">{escape(media)}</span>'
        for media, content in response["content"].items()
    )
    headers = ", ".join(f"<code>{escape(header)}</code>" for header in response["headers"])
    phrase = escape(response["description"])
    return f'<tr><th scope="row">{status}</th><td>{phrase}</td><td>{bodies}</td><td class="note">{headers}</td></tr>'


def _fields(heading: str, schema: Json) -> str:
    required = schema.get("required", ())
    rows = "".join(
        f'<tr><th scope="row"><code>{escape(name)}</code></th><td>{_words(field)}{_default(field)}</td><td class="note">'
        f"{'required' if name in required else ''}</td></tr>"
        for name, field in schema["properties"].items()
    )
    return f'<details open><summary>{heading}</summary><div class="scroll"><table><tbody>{rows}</tbody></table></div></details>'


def _type(name: str, schema: Json) -> str:
    about = f'<p class="note">{_text(schema["description"])}</p>' if "description" in schema else ""
    table = _fields("Fields", schema) if schema.get("properties") else ""
    return f'<h3 id="type-{escape(name)}">{escape(name)}</h3>{about}{table}'


def _objects(schema: Json, document: Json) -> Iterator[Json]:
    """The objects among what a body may be."""
    for choice in schema.get("anyOf", [schema]):
        found = _resolved(choice, document)
        if found.get("properties"):
            yield found


def _words(schema: Json) -> str:
    """A type, as people say it."""
    if "$ref" in schema:
        name = escape(_name_in(schema["$ref"]))
        return f'<a href="#type-{name}">{name}</a>'
    if "anyOf" in schema:
        choices = [_words(choice) for choice in schema["anyOf"] if choice != {"type": "null"}]
        return " or ".join(dict.fromkeys(choices))
    if "enum" in schema:
        return " or ".join(
            f"<code>{escape(repr(value) if isinstance(value, str) else str(value))}</code>" for value in schema["enum"] if value is not None
        )
    if schema.get("type") == "array":
        if "prefixItems" in schema:
            return f"[{', '.join(map(_words, schema['prefixItems']))}]"
        return f"list of {_words(schema.get('items', {}))}"
    kinds = {"string": "text", "integer": "integer", "number": "number", "boolean": "true or false", "object": "object", "null": "null"}
    kind = schema.get("type")
    return " or ".join(kinds[name] for name in ([kind] if isinstance(kind, str) else kind or [])) or "anything"


def _default(schema: Json) -> str:
    default = schema.get("default")
    return (
        ""
        if default is None or default == []
        else f", <code>{escape(str(default).lower() if isinstance(default, bool) else repr(default))}</code> by default"
    )


def _text(text: str) -> str:
    """Plain text with code in backticks."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text, quote=False))


def _badge(method: str) -> str:
    return f'<span class="method {method.lower()}">{method}</span>'


def _resolved(part: Json, document: Json) -> Json:
    """What a part of the document is, or refers to."""
    if "$ref" not in part:
        return part
    _, *way = part["$ref"].split("/")
    for name in way:
        document = document[name]
    return document


def _name_in(reference: str) -> str:
    return reference.rpartition("/")[2]
