"""`cls-serve`: its options and their variables, what it says when it cannot start, how its process starts and ends."""

import errno
import importlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from importlib.util import find_spec
from pathlib import Path

import pytest

from cls_runtime.commands import serve
from cls_runtime.serving.options import ServeOptions

pytestmark = pytest.mark.skipif(find_spec("uvicorn") is None, reason="needs the extra serve")
LONG = 120


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch):
    for name in list(os.environ):
        if name.startswith(serve.VARIABLE):
            monkeypatch.delenv(name)


@pytest.fixture
def options_of(monkeypatch):
    """The ServeOptions that a command line becomes."""
    server = importlib.import_module("cls_runtime.serving.server")
    seen = []
    monkeypatch.setattr(server, "serve", lambda options: seen.append(options) or 0)

    def run(*arguments, **variables):
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        assert serve.main(list(map(str, arguments))) == 0
        return seen.pop()

    return run


def fails(capsys, *arguments, code=2):
    """The line that `cls-serve` ends with."""
    assert serve.main(list(map(str, arguments))) == code
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    return line


def test_defaults_are_those_of_the_contract(options_of):
    assert options_of("a") == ServeOptions(bundles=("a",))
    assert ServeOptions(bundles=("a",)) == ServeOptions(
        bundles=("a",),
        host="127.0.0.1",
        port=8080,
        max_inputs=2048,
        max_body_bytes=16 * 2**20,
        max_queue_ms=2000,
        deadline_s=30,
        on_overflow="truncate",
        shutdown_timeout_s=25,
        drain_delay_s=0,
        log_format="text",
    )


FULL = {
    "--host": ("0.0.0.0", {"host": "0.0.0.0"}),
    "--port": ("9", {"port": 9}),
    "--model-name": ("m", {"model_names": ("m",)}),
    "--variant": ("int8", {"variant": "int8"}),
    "--engine": ("onnxruntime", {"engine": "onnxruntime"}),
    "--device": ("0,1", {"engine": "cuda", "device": "0,1"}),
    "--threads": ("3", {"threads": 3}),
    "--on-overflow": ("raise", {"on_overflow": "raise"}),
    "--prompt-name": ("query", {"prompt_name": "query"}),
    "--max-inputs": ("7", {"max_inputs": 7}),
    "--max-body": ("2MiB", {"max_body_bytes": 2**21}),
    "--max-queue-ms": ("500", {"max_queue_ms": 500}),
    "--deadline": ("1.5", {"deadline_s": 1.5}),
    "--api-key-file": ("keys", {"api_key_file": Path("keys")}),
    "--cors-origin": ("https://a.example", {"cors_origins": ("https://a.example",)}),
    "--shutdown-timeout": ("2", {"shutdown_timeout_s": 2}),
    "--drain-delay": ("3", {"drain_delay_s": 3}),
    "--log-format": ("json", {"log_format": "json"}),
    "--uds": ("s.sock", {"uds": Path("s.sock")}),
    "--follow-links": (None, {"follow_links": True}),
    "--quiet": (None, {"quiet": True}),
}


def variable(option):
    return serve.VARIABLE + option.removeprefix("--").replace("-", "_").upper()


def test_the_table_has_every_option():
    options = {option for action in serve._parser()._actions for option in action.option_strings if option.startswith("--")}
    assert options == {*FULL, "--help", "--version", "--print-completion", "--json", "--check", "--api-key"}  # the last one to be refused


@pytest.mark.parametrize("option", FULL)
def test_each_option_and_its_variable(options_of, option):
    value, fields = FULL[option]
    expected = ServeOptions(bundles=("a",), **fields)
    more = ["--engine", "cuda"] if option == "--device" else []
    assert options_of("a", *more, option, *([] if value is None else [value])) == expected
    assert options_of("a", *more, **{variable(option): value or "1"}) == expected


def test_options_win_over_variables(options_of):
    found = options_of(
        "b", "--port", 7, "--model-name", "n", CLS_SERVE_BUNDLE="a", CLS_SERVE_PORT="8", CLS_SERVE_MODEL_NAME="m", CLS_SERVE_DEADLINE="4"
    )
    assert found == ServeOptions(bundles=("b",), port=7, model_names=("n",), deadline_s=4)
    assert options_of("b", "--uds", "s", CLS_SERVE_HOST="0.0.0.0").uds == Path("s")


def test_lists_in_variables(options_of):
    found = options_of(
        CLS_SERVE_BUNDLE="a b,c", CLS_SERVE_MODEL_NAME="x, y\nz", CLS_SERVE_CORS_ORIGIN="https://a.example,http://b.example:3000"
    )
    assert found.bundles == ("a", "b", "c")
    assert found.model_names == ("x", "y", "z")
    assert found.cors_origins == ("https://a.example", "http://b.example:3000")


def test_bundles_stand_anywhere(options_of):
    assert options_of("a", "--port", 1, "b", "--model-name", "x", "--model-name", "y", "c").bundles == ("a", "b", "c")


def test_an_empty_variable_is_none(options_of):
    assert options_of("a", CLS_SERVE_PORT="", CLS_SERVE_FOLLOW_LINKS="0", CLS_SERVE_API_KEY_FILE=" ") == ServeOptions(bundles=("a",))


def test_what_kubernetes_sets_for_a_service_of_that_name_is_no_option(options_of, capsys):
    found = options_of(
        "a",
        CLS_SERVE_PORT="tcp://10.0.0.7:8080",
        CLS_SERVE_SERVICE_HOST="10.0.0.7",
        CLS_SERVE_SERVICE_PORT="8080",
        CLS_SERVE_SERVICE_PORT_HTTP="8080",
        CLS_SERVE_PORT_8080_TCP="tcp://10.0.0.7:8080",
        CLS_SERVE_PORT_8080_TCP_ADDR="10.0.0.7",
    )
    assert found == ServeOptions(bundles=("a",))
    assert capsys.readouterr().err == ""


def test_a_variable_of_no_option_is_told(options_of, capsys):
    options_of("a", CLS_SERVE_MAX_BATCH="3")
    assert "CLS_SERVE_MAX_BATCH is not an option" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "size"),
    [("4096", 4096), ("16MiB", 2**24), ("2 MB", 2_000_000), ("1.5KiB", 1536), ("3k", 3000), ("1G", 10**9), ("64KB", 64_000)],
)
def test_sizes(text, size):
    assert serve.size_bytes(text) == size


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (["--port", "0"], "BUNDLE"),
        (["a", "--port", "x"], "--port"),
        (["a", "--port", "-1"], "--port"),
        (["a", "--port", "65536"], "--port"),
        (["a", "--max-body", "many"], "--max-body"),
        (["a", "--max-body", "1"], "--max-body"),
        (["a", "--max-body", "2GiB"], "--max-body"),
        (["a", "--max-inputs", "0"], "--max-inputs"),
        (["a", "--max-queue-ms", "0"], "--max-queue-ms"),
        (["a", "--deadline", "nan"], "--deadline"),
        (["a", "--deadline", "0"], "--deadline"),
        (["a", "--shutdown-timeout", "-1"], "--shutdown-timeout"),
        (["a", "--drain-delay", "inf"], "--drain-delay"),
        (["a", "--threads", "0"], "--threads"),
        (["a", "--variant", "int4"], "--variant"),
        (["a", "--device", "1"], "--device goes with --engine cuda"),
        (["a", "--device", "1", "--engine", "onnxruntime"], "found --engine onnxruntime"),
        (["a", "--device", "gpu0", "--engine", "cuda"], "device is 'gpu0'"),
        (["a", "--engine", "tensorrt"], "engine tensorrt was taken out"),
        (["a", "--cors-origin", "a.example"], "--cors-origin"),
        (["a", "--cors-origin", "https://a.example/"], "--cors-origin"),
        (["a", "--model-name", " "], "--model-name"),
        (["a", "--uds", "s", "--port", "1"], "--port"),
        (["a", "--json"], "--check"),
        (["a", "--api-key", "secret"], "--api-key"),
        (["nowhere/at/all/here"], "nowhere/at/all/here"),
    ],
)
def test_what_makes_no_sense_is_one_line(capsys, arguments, names):
    assert names in fails(capsys, *arguments)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PORT", "x"),
        ("MAX_BODY", "big"),
        ("VARIANT", "int4"),
        ("ENGINE", "tensorrt"),
        ("DEVICE", "1"),
        ("CHECK", "perhaps"),
        ("DEADLINE", "-3"),
        ("LOG_FORMAT", "xml"),
    ],
)
def test_a_wrong_variable_is_named(capsys, monkeypatch, name, value):
    monkeypatch.setenv(serve.VARIABLE + name, value)
    line = fails(capsys, "a")
    assert name in line.upper().replace("-", "_")


@pytest.mark.parametrize("arguments", [["--api-key", "my-secret"], ["--api-key=my-secret"], ["--api-key"]])
def test_a_key_in_the_command_line_is_refused_and_not_repeated(capfd, arguments):
    assert serve.main(["a", *arguments]) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert "--api-key-file" in line
    assert "secret" not in line
    assert "--api-key " not in serve._parser().format_help()


def test_a_key_in_a_variable_does_not_leave_the_server_open(capsys, monkeypatch):
    monkeypatch.setenv("CLS_SERVE_API_KEY", "my-secret")
    line = fails(capsys, "a")
    assert "CLS_SERVE_API_KEY_FILE" in line
    assert "secret" not in line


def test_the_prompt_of_all_requests_is_one_of_the_bundles(golden_bundle, capsys):
    line = fails(capsys, golden_bundle, "--check", "--prompt-name", "nothing")
    assert line.startswith("error: --prompt-name is 'nothing', ")
    assert "query" in line
    assert "prompt=" not in line


@pytest.mark.parametrize(("host", "code", "remedy"), [("192.0.2.1", errno.EADDRNOTAVAIL, "--host"), ("127.0.0.1", errno.EACCES, "--port")])
def test_where_it_cannot_listen_is_told_with_what_to_do(golden_bundle, capsys, monkeypatch, host, code, remedy):
    listening = importlib.import_module("cls_runtime.serving.listening")

    def refuse(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(listening, "_bound_to", refuse)
    line = fails(capsys, golden_bundle, "--host", host, "--port", 80)
    assert f"cannot listen on {host} port 80" in line
    assert remedy in line.partition("; choose ")[2]


def test_wrong_keys_are_told_before_the_model_is_loaded(tmp_path, capsys):
    (tmp_path / "keys").write_text("# nothing\n")
    assert "has no key" in fails(capsys, tmp_path, "--port", 0, "--api-key-file", tmp_path / "keys")


def test_check_says_what_it_found(golden_bundle, capsys):
    assert serve.main([str(golden_bundle), "--check", "--model-name", "mine", "--threads", "1"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"mine: fp32 on \w+, graph of 4.7 kB, .*, 1 thread, fingerprint \w{64}", out)
    assert re.search(r"\d [MG]B of memory in use", out)


def test_check_in_json(golden_bundle, capsys):
    assert serve.main([str(golden_bundle), "--check", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["models"][0]["variant"] == "fp32"
    assert document["resident_bytes"] > 10**6


def test_check_of_a_damaged_file_ends_with_1(own_bundle, capsys):
    graph = own_bundle / "onnx" / "model.onnx"
    data = bytearray(graph.read_bytes())
    data[-1] ^= 1
    graph.write_bytes(data)
    assert "model.onnx" in fails(capsys, own_bundle, "--check", code=1)


def test_check_of_what_is_no_bundle_ends_with_2(tmp_path, capsys):
    fails(capsys, tmp_path, "--check")


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (["--prompt-name", "nothing"], "nothing"),
        (["--variant", "int8"], "int8"),
        (["--api-key-file", "nowhere.txt"], "nowhere.txt"),
    ],
)
def test_check_finds_what_the_bundle_has_not(golden_bundle, capsys, arguments, names):
    assert names in fails(capsys, golden_bundle, "--check", *arguments)


def test_two_bundles_of_one_name_need_names(golden_bundle, own_bundle, capsys, tmp_path):
    same = tmp_path / "other" / golden_bundle.name
    same.parent.mkdir()
    same.symlink_to(own_bundle)
    assert "--model-name" in fails(capsys, golden_bundle, same, "--check")
    assert "2 bundles" in fails(capsys, golden_bundle, same, "--check", "--model-name", "a")
    assert serve.main([str(golden_bundle), str(same), "--check", "--model-name", "a", "--model-name", "b"]) == 0


def test_a_name_stands_for_one_bundle(golden_bundle, tmp_path):
    """A checkpoint's name that two bundles share is nobody's; a folder's name is its own bundle's, whatever else is called so."""
    models = importlib.import_module("cls_runtime.serving.models").ServedModels
    checkpoint = json.loads((golden_bundle / "cls_export.json").read_text())["source"]["name"]
    for name in ("one", "two", checkpoint):
        shutil.copytree(golden_bundle, tmp_path / name)
    for bundles, names in [
        (("one", "two"), [("one",), ("two",)]),
        (("one", checkpoint), [("one",), (checkpoint,)]),
        ((checkpoint, "one"), [(checkpoint,), ("one",)]),
    ]:
        served = models.load(ServeOptions(bundles=tuple(str(tmp_path / bundle) for bundle in bundles)))
        assert [model.names for model in served.all] == names
        assert all(served.find(name) is model for model in served.all for name in model.names)
        served.close()
    served = models.load(ServeOptions(bundles=(str(golden_bundle),), model_names=("a", "b", "a")))
    assert served.all[0].names == ("a", "b")
    served.close()


def test_a_missing_extra_is_named(monkeypatch, capsys, golden_bundle):
    for name in [name for name in sys.modules if name.startswith(("uvicorn", "cls_runtime.serving"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert "pip install 'cls-export[serve]'" in fails(capsys, golden_bundle)


def test_a_port_that_is_taken_is_told_at_once(golden_bundle, capsys):
    with socket.create_server(("127.0.0.1", 0)) as other:
        assert "somebody else listens" in fails(capsys, golden_bundle, "--port", other.getsockname()[1])


# Its process


class Process:
    """`cls-serve` in a process of its own, on a port that it chooses."""

    def __init__(self, tmp_path, *arguments):
        self.log = tmp_path / "log"
        code = "import sys; from cls_runtime.commands.start import cls_serve; sys.exit(cls_serve())"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen([sys.executable, "-c", code, *map(str, arguments)], stdout=log, stderr=log)

    def text(self):
        return self.log.read_text()

    def until(self, pattern):
        deadline = time.monotonic() + LONG
        while (found := re.search(pattern, self.text())) is None:
            assert self.process.poll() is None, self.text()
            assert time.monotonic() < deadline
            time.sleep(0.01)
        return found

    def wait(self):
        return self.process.wait(LONG)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_it_with_0(golden_bundle, tmp_path, number):
    with Process(tmp_path, golden_bundle, "--port", 0, "--threads", 1) as server:
        address = server.until(r"listening on (http://127\.0\.0\.1:\d+)")[1]
        with urllib.request.urlopen(f"{address}/ready", timeout=LONG) as answer:
            assert answer.status == 200
        server.process.send_signal(number)
        assert server.wait() == 0, server.text()
        assert "Traceback" not in server.text()
        assert "every request was answered" in server.text()


def test_a_second_signal_ends_it_at_once(golden_bundle, tmp_path):
    place = tmp_path / "serve.sock"
    with Process(tmp_path, golden_bundle, "--uds", place, "--threads", 1, "--drain-delay", 60) as server:
        server.until("listening on")
        server.process.send_signal(signal.SIGTERM)
        server.until("shutting down: ")
        began = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        assert server.wait() == 128 + signal.SIGTERM
        assert time.monotonic() - began < 10
        assert "error: a second SIGTERM" in server.text()
        assert not place.exists()


def test_a_hangup_before_the_keys_are_read_does_not_end_it(golden_bundle, tmp_path, monkeypatch):
    """What rotates the keys does not know whether the server has loaded its models yet."""
    server = importlib.import_module("cls_runtime.serving.server")
    loaded = server.ServedModels.load
    said = []

    def load(options):
        os.kill(os.getpid(), signal.SIGHUP)
        return loaded(options)

    async def live(self):
        said.append("live")

    monkeypatch.setattr(server.ServedModels, "load", load)
    monkeypatch.setattr(server.Server, "live", live)
    (tmp_path / "keys").write_text("one\n")
    before = signal.signal(signal.SIGHUP, lambda *_: said.append("ended"))
    try:
        assert server.serve(ServeOptions(bundles=(str(golden_bundle),), port=0, api_key_file=tmp_path / "keys")) == 0
        assert said == ["live"]
        assert server.serve(ServeOptions(bundles=(str(golden_bundle),), port=0)) == 0
        assert said == ["live", "ended", "live"]
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize(
    ("options", "is_open"),
    [
        ({"host": "0.0.0.0"}, True),
        ({"host": "127.0.0.1"}, False),
        ({"host": "localhost"}, False),
        ({"host": "0.0.0.0", "keys": True}, False),
    ],
)
def test_that_everybody_may_ask_is_told(golden_bundle, tmp_path, options, is_open):
    arguments = ["--host", options["host"]]
    if "keys" in options:
        (tmp_path / "keys").write_text("one\n")
        arguments += ["--api-key-file", tmp_path / "keys"]
    with Process(tmp_path, golden_bundle, "--port", 0, "--threads", 1, *arguments) as server:
        server.until("listening on")
        assert ("anyone who reaches" in server.text()) == is_open


def test_a_signal_while_it_loads_ends_it_as_every_command(golden_bundle, tmp_path):
    with Process(tmp_path, golden_bundle, "--port", 0) as server:
        time.sleep(0.05)
        server.process.send_signal(signal.SIGTERM)
        assert server.wait() in (0, 143, -signal.SIGTERM)  # before Python can answer it, it is the system's
        assert "Traceback" not in server.text()


def test_its_log_in_json_is_json_from_the_first_line_to_the_last(golden_bundle, tmp_path):
    with Process(tmp_path, golden_bundle, "--port", 0, "--threads", 1, "--log-format", "json") as server:
        server.until('"listening"')
        server.process.send_signal(signal.SIGTERM)
        assert server.wait() == 0
        lines = [json.loads(line) for line in server.text().splitlines()]
        assert [line["event"] for line in lines] == ["model", "model", "listening", "draining", "ended"]
        assert lines[2]["address"].startswith("http://127.0.0.1:")


@pytest.mark.timing
def test_it_is_ready_within_a_second(golden_bundle, tmp_path):
    """A floor for any machine, of a small bundle; docs/guides/serve.md has the figure of a real one on a quiet machine."""
    took = []
    for _ in range(3):
        began = time.monotonic()
        with Process(tmp_path, golden_bundle, "--port", 0, "--threads", 1) as server:
            server.until("listening on")
            took.append(time.monotonic() - began)
    assert min(took) < 3
