"""Keys, CORS, and what the log says of a request: who is let in, and what is never written down."""

import io
import json
import signal
import threading
import time

import pytest
from served import running

from cls_runtime import UsageError
from cls_runtime.serving.application import ENDPOINTS
from cls_runtime.serving.keys import ApiKeys
from cls_runtime.serving.record import RequestRecord
from cls_runtime.serving.refusal import Refusal
from cls_runtime.serving.request_log import MOST_LINES, RequestLog

BODY = {"input": "the cat"}
MARKER = "zebra-in-the-text"


@pytest.fixture
def keys_file(tmp_path):
    path = tmp_path / "keys.txt"
    path.write_bytes(b"\xef\xbb\xbffirst-key\r\n\r\n  second-key  \n" + "schlüssel\n".encode())
    return path


def opens(keys, *headers):
    try:
        keys.check(headers)
    except Refusal as refusal:
        return (refusal.kind, refusal.headers) != ("unauthorized", {"www-authenticate": "Bearer"})
    return True


@pytest.mark.parametrize("key", [b"first-key", b"second-key", "schlüssel".encode()])
def test_the_four_forms_of_each_key(keys_file, key):
    keys = ApiKeys(keys_file)
    for name, value in [
        (b"authorization", b"Bearer " + key),
        (b"authorization", b"bearer  " + key),
        (b"authorization", key),
        (b"api-key", key),
        (b"x-api-key", key),
    ]:
        assert opens(keys, (b"host", b"here"), (name, value))
    assert opens(keys, (b"authorization", b"Bearer unused"), (b"api-key", key))


def test_a_comment_is_no_key(tmp_path):
    path = tmp_path / "keys"
    path.write_text("# for the indexer\nfirst#key\n  #old-key\n")
    keys = ApiKeys(path)
    assert keys.read() == 1
    assert opens(keys, (b"api-key", b"first#key"))
    for other in (b"# for the indexer", b"#old-key", b"old-key"):
        assert not opens(keys, (b"api-key", other))


@pytest.mark.parametrize("line", [b"two keys", b"key\tkey", b"ke\0y", "key\n".encode("utf-16"), b"key \x7f", b"key # of the indexer"])
def test_what_no_header_has_is_refused_by_its_line_alone(tmp_path, line):
    path = tmp_path / "keys"
    path.write_bytes(b"good-key\n")
    keys = ApiKeys(path)
    path.write_bytes(b"other-key\n" + line)
    with pytest.raises(UsageError, match="line 2 has a space or a control character") as caught:
        keys.read()
    assert "key" not in str(caught.value).partition("line 2")[2].replace("one key per line", "")
    assert opens(keys, (b"api-key", b"good-key"))


@pytest.mark.parametrize(
    "value",
    [b"", b"Bearer", b"Bearer ", b"first-ke", b"first-key2", b"FIRST-KEY", b"first-key second-key", b"Basic first-key", b"\xff\x00"],
)
def test_others_do_not_open(keys_file, value):
    keys = ApiKeys(keys_file)
    assert not opens(keys)
    for name in (b"authorization", b"api-key", b"x-api-key"):
        assert not opens(keys, (name, value))
    assert not opens(keys, (b"x-key", b"first-key"), (b"cookie", b"first-key"))


def test_without_a_file_everything_is_open():
    assert opens(ApiKeys(None))


@pytest.mark.parametrize("what", ["nothing", "folder", "empty", "blank", "huge"])
def test_what_is_no_file_of_keys(tmp_path, what):
    path = tmp_path / "keys"
    if what == "folder":
        path.mkdir()
    elif what != "nothing":
        path.write_bytes({"empty": b"", "blank": b"\n \n", "huge": b"a" * 2**21}[what])
    with pytest.raises(UsageError, match="--api-key-file"):
        ApiKeys(path)


def test_a_file_that_is_broken_leaves_the_keys_as_they_were(keys_file):
    keys = ApiKeys(keys_file)
    keys_file.write_text("\n")
    with pytest.raises(UsageError):
        keys.read()
    assert opens(keys, (b"api-key", b"first-key"))
    keys_file.write_text("third-key")
    assert keys.read() == 1
    assert opens(keys, (b"api-key", b"third-key"))
    assert not opens(keys, (b"api-key", b"first-key"))


def test_every_endpoint_but_probes_and_pages_asks_for_a_key_in_its_protocols_form(serve, bundle, keys_file):
    server = serve(bundle, api_key_file=keys_file)
    for endpoint in ENDPOINTS:
        path = endpoint.path.replace("{id:path}", "own")
        answer = server.request(endpoint.method, path, BODY if endpoint.method == "POST" else None)
        assert (answer.status == 401) == endpoint.needs_key, path
        if endpoint.needs_key:
            assert answer.headers["www-authenticate"] == "Bearer"
            assert answer.headers["content-type"] == "application/json"
            assert "key" in (answer.json.get("message") or answer.json["error"])
    for probe in ("/live", "/ready", "/health", "/metrics"):
        assert server.get(probe).status == 200
    assert server.post("/v1/embeddings", BODY, headers=[("authorization", "Bearer second-key")]).status == 200


def test_cors_is_off_unless_it_is_asked_for(served):
    ask = [("origin", "https://a.example"), ("access-control-request-method", "POST"), ("access-control-request-headers", "authorization")]
    answer = served.request("OPTIONS", "/v1/embeddings", headers=ask)
    assert answer.status == 405
    assert not [name for name in answer.headers if name.startswith("access-control")]
    answer = served.post("/v1/embeddings", BODY, headers=ask[:1])
    assert not [name for name in answer.headers if name.startswith("access-control")]


@pytest.mark.parametrize("origins", [("https://a.example", "http://localhost:3000"), ("*",)])
def test_cors_allows_authorization_to_the_origins_that_are_named(serve, bundle, keys_file, origins):
    server = serve(bundle, api_key_file=keys_file, cors_origins=origins)

    def preflight(origin):
        names = "authorization,api-key,x-stainless-os,openai-organization"  # as npm's openai sends them from a page
        ask = [("origin", origin), ("access-control-request-method", "POST"), ("access-control-request-headers", names)]
        return server.request("OPTIONS", "/v1/embeddings", headers=ask)

    answer = preflight("https://a.example")
    assert answer.status == 200
    assert answer.headers["access-control-allow-origin"] in ("https://a.example", "*")
    allowed = answer.headers["access-control-allow-headers"].lower()
    assert "authorization" in allowed
    assert "x-stainless-os" in allowed
    assert (preflight("https://b.example").headers.get("access-control-allow-origin") is not None) == (origins == ("*",))
    refused = server.post("/v1/embeddings", BODY, headers=[("origin", "https://a.example")])
    assert refused.status == 401
    assert refused.headers["access-control-allow-origin"]
    assert "x-request-id" in refused.headers["access-control-expose-headers"].lower()


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_neither_a_text_nor_a_key_is_logged(serve, bundle, trained, keys_file, log_format):
    """The marker stands wherever a body has room for a word; what is sent as a key has it too."""
    server = serve(bundle, trained, api_key_file=keys_file, log_format=log_format)
    bodies = [
        *(
            {name: value}
            for name in ("input", "inputs", "texts")
            for value in (MARKER, [MARKER, MARKER], {"a": MARKER}, [[MARKER]], [1, MARKER])
        ),
        {"inputs": {"source_sentence": MARKER, "sentences": [MARKER]}},
        {"query": MARKER, "texts": [MARKER], "documents": [MARKER]},
        {"query": MARKER, "documents": [{"text": MARKER}], "top_n": MARKER},
        *(
            {"input": MARKER, "inputs": MARKER, "texts": [MARKER], field: MARKER}
            for field in ("model", "prompt_name", "input_type", "dimensions")
        ),
        {"input": MARKER, "encoding_format": MARKER},
        {"input": MARKER + "\ud800", "inputs": MARKER + "\ud800"},
        f'{{"input": "{MARKER}'.encode(),
        f"{MARKER}".encode(),
        f'{{"input": "{MARKER}\xff"}}'.encode("latin-1"),
        {"input": MARKER * 100, "inputs": MARKER * 100, "truncate": False},
    ]
    statuses = set()
    for endpoint in ENDPOINTS:
        if endpoint.method != "POST":
            continue
        for body in bodies:
            for key in ("first-key", f"wrong-{MARKER}"):
                headers = [("authorization", f"Bearer {key}"), ("cookie", MARKER), ("user-agent", MARKER)]
                statuses.add(server.post(f"{endpoint.path}?text={MARKER}", body, headers=headers).status)
    assert {200, 400, 401} <= statuses
    log = server.log.getvalue()
    assert log.count("\n") > 100
    for secret in (MARKER, "first-key", "second-key"):
        assert secret not in log


def test_a_line_has_what_is_known_of_a_request(serve, bundle):
    server = serve(bundle, log_format="json")
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    answer = server.post("/v1/embeddings", {"input": ["the", "the " * 50]}, headers=[("x-request-id", "mine-1"), ("traceparent", trace)])
    assert answer.headers["x-request-id"] == "mine-1"
    line = json.loads(server.log.getvalue())
    assert {name: line[name] for name in ("id", "method", "path", "status", "inputs", "tokens", "truncated", "traceparent", "model")} == {
        "id": "mine-1",
        "method": "POST",
        "path": "/v1/embeddings",
        "status": 200,
        "inputs": 2,
        "tokens": answer.json["usage"]["prompt_tokens"],
        "truncated": 1,
        "traceparent": trace,
        "model": server.service.models.all[0].name,
    }
    assert all(line[f"{phase}_ms"] >= 0 for phase in ("read", "parse", "queue", "tokenize", "compute", "write"))
    assert line["time"].endswith("Z")


@pytest.mark.parametrize("given", ["two words", "a" * 200, "line\x0bbreak", ""])
def test_an_id_that_is_no_word_is_not_taken(served, given):
    answer = served.post("/v1/embeddings", BODY, headers=[("x-request-id", given), ("traceparent", "00-x")])
    assert len(answer.headers["x-request-id"]) == 32


def test_a_path_cannot_break_a_line_or_add_fields(serve, bundle):
    server = serve(bundle)
    server.get("/%0Aid=1%20status=200%22%1b[2J")
    (line,) = server.log.getvalue().splitlines()
    assert line.count("status=") == 2
    assert "status=200" not in line.split()
    assert line.isprintable()


def record(number=0):
    return RequestRecord(f"id-{number}", "GET", "/nothing", status=404)


class Pipe(io.StringIO):
    """A reader that has stopped reading, until it is let go."""

    def __init__(self):
        super().__init__()
        self.go = threading.Event()

    def write(self, text):
        assert self.go.wait(60)
        return super().write(text)


def test_a_reader_who_stops_reading_stops_nothing_and_hears_how_much_is_missing(monkeypatch):
    pipe = Pipe()
    monkeypatch.setattr("sys.stderr", pipe)
    log = RequestLog("text")
    log.ended(record(), 0.001, at=0.0)
    time.sleep(0.2)  # the writer has taken it
    for number in range(MOST_LINES + 10):
        log.ended(record(number), 0.001, at=0.0)
    pipe.go.set()
    log.close()
    lines = pipe.getvalue().splitlines()
    assert len(lines) == MOST_LINES + 2
    assert lines[-1].endswith("10 lines were dropped because nothing read the log")


def test_a_reader_who_is_gone_stops_nothing(monkeypatch):
    stream = io.StringIO()
    stream.close()
    monkeypatch.setattr("sys.stderr", stream)
    log = RequestLog("json")
    log.say("event", "a message")
    log.close()


def test_sighup_reads_the_keys_again(trained, keys_file, tmp_path):
    with running(trained, "--api-key-file", keys_file, log=tmp_path / "log") as server:

        def status(key):
            return server.ask("/v1/embeddings", BODY, headers={"api-key": key}).status

        assert (status("first-key"), status("third-key")) == (200, 401)
        keys_file.write_text("third-key\n")
        server.process.send_signal(signal.SIGHUP)
        deadline = time.monotonic() + 30
        while status("third-key") != 200:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert status("first-key") == 401
        keys_file.unlink()
        server.process.send_signal(signal.SIGHUP)
        while "the old keys stay in use" not in server.log.read_text():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert status("third-key") == 200
    assert "third-key" not in server.log.read_text()


def test_a_key_behind_a_flood_of_others_is_not_looked_for(serve, bundle, keys_file):
    """Each of thousands of headers would be compared with each key."""
    server = serve(bundle, api_key_file=keys_file)
    wrong = [("api-key", "wrong")]
    assert server.post("/v1/embeddings", BODY, headers=[*wrong, ("authorization", "Bearer first-key")]).status == 200
    assert server.post("/v1/embeddings", BODY, headers=[*wrong * 1000, ("authorization", "Bearer first-key")]).status == 401
