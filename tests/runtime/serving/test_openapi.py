"""/openapi.json and /docs say of every endpoint what it takes and answers, and it is so."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, get_args

import msgspec
import pytest
from bundle_builder import build_bundle
from served import Served

from cls_runtime.serving.application import ENDPOINTS
from cls_runtime.serving.bodies import OtherVectors
from cls_runtime.serving.endpoint import Endpoint
from cls_runtime.serving.examples import EXAMPLES
from cls_runtime.serving.openapi import OpenAIError, TeiError, document, statuses_of
from cls_runtime.serving.refusal import Kind, Refusal

IDS = [f"{endpoint.method} {endpoint.path}" for endpoint in ENDPOINTS]
# Of the tiny bundles' vocabulary, which is no BERT's.
OF_TINY = {"/decode": {"ids": [2, 5, 3]}}


@pytest.fixture(scope="module")
def servers(tmp_path_factory) -> Iterator[list[Served]]:
    """One that embeds, one that classifies, one that ranks."""
    folder = tmp_path_factory.mktemp("bundles")
    bundles = [build_bundle(folder / "embeds", outputs=("sentence_embedding",)), build_bundle(folder / "classifies")]
    bundles.append(build_bundle(folder / "ranks", label_count=1))
    servers = [Served.of(bundle, model_names=("tiny",)) for bundle in bundles]
    yield servers
    for server in servers:
        server.close()


@pytest.fixture(scope="module")
def described(servers) -> dict[str, Any]:
    answer = servers[0].get("/openapi.json")
    assert answer.status == 200
    assert answer.headers["content-type"] == "application/json"
    return answer.json


def operation_of(endpoint: Endpoint, described: dict[str, Any]) -> dict[str, Any]:
    return described["paths"][re.sub(r":\w+}", "}", endpoint.path)][endpoint.method.lower()]


def references(part: Any) -> Iterator[str]:
    if isinstance(part, dict):
        yield from (value for name, value in part.items() if name == "$ref")
        for value in part.values():
            yield from references(value)
    elif isinstance(part, list):
        for value in part:
            yield from references(value)


def resolved(reference: str, described: dict[str, Any]) -> Any:
    part = described
    for name in reference.removeprefix("#/").split("/"):
        part = part[name]
    return part


def test_every_endpoint_is_in_it_and_nothing_else(described):
    found = {(method, path) for path, methods in described["paths"].items() for method in methods}
    assert found == {(endpoint.method.lower(), re.sub(r":\w+}", "}", endpoint.path)) for endpoint in ENDPOINTS}
    names = [operation["operationId"] for methods in described["paths"].values() for operation in methods.values()]
    assert len(set(names)) == len(names)
    assert described["openapi"].startswith("3.1")


def test_every_reference_leads_somewhere_and_every_type_is_used(described):
    found = set(references(described))
    for reference in found:
        assert resolved(reference, described)
    assert {f"#/components/schemas/{name}" for name in described["components"]["schemas"]} <= found
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+", name) for name in described["components"]["schemas"])


def test_every_operation_has_what_a_reader_needs(described):
    tags = {tag["name"] for tag in described["tags"]}
    for path, methods in described["paths"].items():
        for operation in methods.values():
            assert operation["summary"]
            assert set(operation["tags"]) <= tags
            assert "200" in operation["responses"]
            assert [parameter["name"] for parameter in operation.get("parameters", ())] == re.findall(r"{(\w+)}", path)


@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=IDS)
def test_whatever_a_refusal_is_its_status_and_its_body_are_described(endpoint):
    for kind in get_args(Kind):
        refusal = Refusal(kind, "words", param="input", code="code")
        _, body = endpoint.errors(refusal)
        form = TeiError if isinstance(body["error"], str) else OpenAIError
        assert msgspec.convert(body, form)
        assert msgspec.to_builtins(msgspec.convert(body, form)) == body  # nothing that the form has not
    if endpoint.body is not None:
        assert {endpoint.errors(Refusal("malformed", ""))[0], 429, 500, 503} <= set(statuses_of(endpoint))


def test_fields_that_are_there_to_be_refused_are_not_offered(described):
    request = described["components"]["schemas"]["EmbeddingsRequest"]
    assert {"input", "model", "encoding_format", "dimensions"} <= set(request["properties"])
    assert not set(request["properties"]) & {"pooling", "task", "late_chunking"} & set(OtherVectors.__struct_fields__)


def test_keys_are_asked_for_where_the_server_has_some(servers, described, serve, make_bundle, tmp_path):
    assert "security" not in json.dumps(described)
    assert "401" not in {status for methods in described["paths"].values() for one in methods.values() for status in one["responses"]}
    (tmp_path / "keys").write_text("secret\n")
    served = serve(make_bundle(outputs=("sentence_embedding",)), api_key_file=tmp_path / "keys")
    keyed = served.get("/openapi.json").json
    assert set(keyed["components"]["securitySchemes"]) == {"bearer", "api-key", "x-api-key"}
    for endpoint in ENDPOINTS:
        operation = operation_of(endpoint, keyed)
        assert ("security" in operation) == ("401" in operation["responses"]) == endpoint.needs_key
        path = endpoint.path.replace("{id:path}", "tiny")
        asked = served.request(endpoint.method, path, EXAMPLES.get(endpoint.path))
        assert (asked.status == 401) == endpoint.needs_key, path
    assert b"Authorization: Bearer $KEY" in served.get("/docs").body


def test_every_endpoint_with_a_body_has_an_example():
    assert {endpoint.path for endpoint in ENDPOINTS if endpoint.body is not None} <= set(EXAMPLES)


@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=IDS)
def test_its_example_is_answered_as_described(endpoint, servers, described):
    """By one of the servers at least; the others refuse it as is described."""
    operation = operation_of(endpoint, described)
    answers = []
    for server in servers:
        path = endpoint.path.replace("{id:path}", "tiny")
        body = OF_TINY.get(endpoint.path, EXAMPLES.get(endpoint.path)) if endpoint.body is not None else None
        answer = server.request(endpoint.method, path, body)
        response = operation["responses"][str(answer.status)]
        response = resolved(response["$ref"], described) if "$ref" in response else response
        assert answer.headers["content-type"] in response["content"]
        always = {"x-request-id", "server-timing"}
        assert always <= set(response["headers"])
        assert {name for name in answer.headers if name.startswith("x-")} - {"x-content-type-options"} <= set(response["headers"])
        answers.append(answer)
    good = [answer for answer in answers if answer.status == 200]
    assert good, [answer.body for answer in answers]
    if endpoint.answer is not None and not isinstance(endpoint.answer, str):
        for answer in good:
            assert any(fits(answer.json, kind) for kind in get_args(endpoint.answer) or [endpoint.answer]) or fits(
                answer.json, endpoint.answer
            )


def fits(value: Any, kind: Any) -> bool:
    try:
        msgspec.convert(value, kind)
    except (msgspec.ValidationError, TypeError):
        return False
    return True


def test_the_document_is_the_same_each_time_and_made_once(servers):
    first, second = servers[0].get("/openapi.json"), servers[1].get("/openapi.json")
    assert first.body == second.body
    assert json.loads(first.body) == msgspec.json.decode(msgspec.json.encode(document(ENDPOINTS, keys=False)))


def test_the_page_has_every_endpoint_type_and_command(servers, described):
    page = servers[0].get("/docs").body.decode()
    for path, methods in described["paths"].items():
        for operation in methods.values():
            assert f'id="{operation["operationId"]}"' in page
        assert f"<code>{path}</code>" in page
    for name in described["components"]["schemas"]:
        assert f'id="type-{name}"' in page
    links = set(re.findall(r'href="#([^"]+)"', page))
    assert links <= set(re.findall(r'id="([^"]+)"', page))
    assert page.count("curl <span data-origin>") == sum(len(methods) for methods in described["paths"].values())
