"""docs/reference/server.md, docs/guides/serve.md, the options' help and deploy/ against the code: every option, status, endpoint, bound and
metric, and no other."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml

from cls_runtime.commands import serve

pytest.importorskip("starlette")
pytest.importorskip("prometheus_client")

from cls_runtime.serving.application import ENDPOINTS
from cls_runtime.serving.metrics import Metrics
from cls_runtime.serving.options import ServeOptions
from cls_runtime.serving.record import CancelReason
from cls_runtime.serving.refusal import STATUS

ROOT = Path(__file__).resolve().parent.parent
GUIDE = (ROOT / "docs" / "guides" / "serve.md").read_text(encoding="utf-8")
PAGE = (ROOT / "docs" / "reference" / "server.md").read_text(encoding="utf-8")
DEPLOY = ROOT / "deploy"
# A request that is asked for by its name as a method and a path.
PATH = re.compile(r"/[\w/{}.]*")


def section(title: str, page: str = PAGE) -> str:
    """What stands below a heading, up to the next one of its level or above."""
    level = re.match(r"#+", title)
    assert level is not None
    found = re.search(rf"^{re.escape(title)}$\n(.*?)(?=^#{{1,{len(level[0])}}} |\Z)", page, re.DOTALL | re.MULTILINE)
    assert found is not None, title
    return found[1]


def rows(text: str) -> list[list[str]]:
    """The cells of a section's tables, without their heads."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    kept = [
        line for line, after in zip(lines, [*lines[1:], ""], strict=True) if not after.startswith("|---") and not line.startswith("|---")
    ]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in kept]


def options() -> dict[str, argparse.Action]:
    """The command's options by their first name; BUNDLE by its own."""
    found = {}
    for action in serve._parser()._actions:
        if action.help == argparse.SUPPRESS:  # no option, and refused
            continue
        if action.dest not in ("help", "version", "print_completion"):
            found[next((name for name in action.option_strings if name.startswith("--")), "BUNDLE...")] = action
    return found


def test_every_option_has_a_variable_by_the_rule_that_the_help_and_the_guide_give(capsys: pytest.CaptureFixture[str]) -> None:
    assert "--max-body is CLS_SERVE_MAX_BODY, BUNDLE is CLS_SERVE_BUNDLE" in (serve._parser().description or "").replace("\n", " ")
    assert "`--max-queue-ms 500` is `CLS_SERVE_MAX_QUEUE_MS=500`" in GUIDE
    variables = [f"CLS_SERVE_{name.strip('-.').replace('-', '_').upper()}" for name in options()]
    parser = serve._parser()
    serve._fill_from(parser.parse_args(["a"]), parser, dict.fromkeys(variables, ""))
    assert capsys.readouterr().err == ""  # of one that it does not know it warns


def test_the_guide_leads_to_the_options() -> None:
    """docs/reference/commands.md has them from --help."""
    assert "(../reference/commands.md#cls-serve)" in GUIDE
    assert "(commands.md#cls-serve)" in PAGE


def test_the_help_says_the_default_of_every_option_and_it_is_the_servers() -> None:
    told = {name: re.findall(r"\(default: (.*?)\)$", action.help or "") for name, action in options().items()}
    given = ServeOptions(bundles=("x",))
    expected = {
        "--host": given.host,
        "--port": f"{given.port}",
        "--variant": given.variant,
        "--engine": given.engine,
        "--on-overflow": given.on_overflow,
        "--max-inputs": f"{given.max_inputs}",
        "--max-body": f"{given.max_body_bytes // 2**20}MiB",
        "--max-queue-ms": f"{given.max_queue_ms:g}",
        "--deadline": f"{given.deadline_s:g}",
        "--shutdown-timeout": f"{given.shutdown_timeout_s:g}",
        "--drain-delay": f"{given.drain_delay_s:g}",
        "--log-format": given.log_format,
    }
    assert {name: told[name] for name in expected} == {name: [default] for name, default in expected.items()}
    switches = {name for name, action in options().items() if action.nargs == 0}
    assert {name for name, found in told.items() if not found} - switches == {"BUNDLE...", "--uds"}


def test_the_help_says_what_becomes_of_what_is_beyond_a_limit() -> None:
    helps = {name: action.help or "" for name, action in options().items()}
    for name, status in (("--max-inputs", 413), ("--max-body", 413), ("--max-queue-ms", 429), ("--deadline", 503), ("--on-overflow", 400)):
        assert str(status) in helps[name], name


def test_every_status_is_there() -> None:
    told = {int(row[0]) for row in rows(section("## Statuses"))}
    assert told == {*STATUS.values(), 422, 424}


def test_every_endpoint_is_there() -> None:
    told = {path for row in rows(section("## Endpoints")) for path in PATH.findall(row[0])}
    assert {endpoint.path.replace(":path", "") for endpoint in ENDPOINTS} == told


def test_the_bounds_are_the_servers() -> None:
    from cls_runtime.serving.limits import Limits

    limits, text = Limits(), section("## Limits")
    for words in (
        f"{limits.connections:,}, or the open-file limit",
        f"| {limits.idle_s:g} s | closed",
        f"{limits.head_bytes // 1024} KiB, {limits.head_s:g} s",
        f"| pipelined requests per connection | {limits.pipelined} |",
        f"{limits.unread_bytes // 1024} KiB in {limits.unread_s:g} s",
        f"{limits.discard_bytes // 2**20} MiB, {limits.linger_s:g} s",
    ):
        assert words in text
    statuses = section("## Statuses")
    assert f"took longer than {limits.head_s:g} s" in statuses
    assert f"exceed {limits.head_bytes // 1024} KiB" in statuses


def test_the_bounds_of_other_modules_are_theirs() -> None:
    from cls_runtime.serving import admission, bodies, listening, request_log, service

    text = section("## Limits")
    assert f"queue of {listening.BACKLOG:,} |" in text
    assert f"requests | {admission.WAITING_FOR_TOKENIZER} |" in text
    assert f"no batch ends | {service.STALLED_SECONDS:g} s |" in text
    assert f"unwritten log lines | {request_log.MOST_LINES:,} |" in text
    assert f"{admission.BODIES_HELD} bodies of `--max-body` are read at once" in text
    assert f"more than {bodies.MOST_STRINGS:,} strings" in section("## Statuses")


@pytest.fixture(scope="module")
def metrics() -> dict[str, set[str]]:
    """The names of the labels of each metric, `process_` left out."""
    registry: Any = Metrics([], ["/embed"])._registry
    return {metric.name: {*metric_labels(metric)} for metric in registry.collect() if not metric.name.startswith("process_")}


def metric_labels(metric: Any) -> set[str]:
    return {label for sample in metric.samples for label in sample.labels} - {"le"}


def test_every_metric_is_there(metrics: dict[str, set[str]]) -> None:
    told = {name for row in rows(section("## Metrics")) for name in re.findall(r"`(cls_\w+)", row[0])}
    assert {name.removesuffix("_total") for name in told} == set(metrics)
    for name, labels in re.findall(r"`(cls_\w+)\{([\w,]+)\}`", section("## Metrics")):
        found = metrics[name.removesuffix("_total")]
        assert not found or found == set(labels.split(",")), name  # without a model there is no series of cls_model_info


def test_the_reasons_and_phases_are_the_servers() -> None:
    from cls_runtime.serving.record import PHASES

    (cancelled,) = [row for row in rows(section("## Metrics")) if row[0].startswith("`cls_cancelled")]
    assert tuple(re.findall(r"`(\w+)`", cancelled[1])) == get_args(CancelReason)
    (phases,) = [row for row in rows(section("## Metrics")) if row[0].startswith("`cls_phase")]
    assert tuple(re.findall(r"`(\w+)`", phases[1])) == PHASES


def test_the_alerts_ask_for_metrics_that_there_are(metrics: dict[str, set[str]]) -> None:
    rules = (DEPLOY / "alerts.yaml").read_text(encoding="utf-8")
    alerts = [rule for group in yaml.safe_load(rules)["groups"] for rule in group["rules"]]
    assert len({rule["alert"] for rule in alerts}) == len(alerts) >= 5
    for rule in alerts:
        asked = {re.sub(r"_(total|bucket)$", "", name) for name in re.findall(r"\bcls_\w+", rule["expr"])}
        assert asked <= set(metrics), rule["alert"]
        for name, labels in re.findall(r"\b(cls_\w+)\{(.*?)\}", rule["expr"]):
            found = metrics[re.sub(r"_(total|bucket)$", "", name)]
            assert set(re.findall(r"(\w+)=", labels)) <= found, rule["alert"]


def test_the_log_has_the_fields_that_the_page_names() -> None:
    from cls_runtime.serving.record import PHASES, RequestRecord
    from cls_runtime.serving.request_log import fields_of

    record = RequestRecord.of({"method": "GET", "path": "/", "headers": []})
    record.model, record.refused, record.cancelled, record.traceparent = "a", "late", "deadline", "b"
    record.seconds = dict.fromkeys(PHASES, 0.0)
    phases = {f"{phase}_ms" for phase in PHASES}
    told = set(re.findall(r"`(\w+)`", section("## Log")))
    assert told - phases == {"time", *fields_of(record, 0.0)} - phases


def test_the_proxies_wait_longer_than_the_deadline_and_keep_connections_for_less_than_the_server() -> None:
    from cls_runtime.serving.limits import Limits

    page = section("## Behind a proxy", GUIDE)
    files = [(DEPLOY / name).read_text(encoding="utf-8") for name in ("Caddyfile", "envoy.yaml")]
    text, limits, given = "\n".join([page, *files]), Limits(), ServeOptions(bundles=("x",))
    waits = [int(found) for found in re.findall(r"(?:read_timeout|response_header_timeout|  timeout:) (\d\d)s", text)]
    keeps = [int(found) for found in re.findall(r"(?:keepalive_timeout|keepalive|idle_timeout:) (\d+)s", text)]
    assert len(waits) == len(keeps) == 3
    assert min(waits) > given.deadline_s
    assert max(keeps) < limits.idle_s
    assert f"less than {limits.idle_s:g} s" in page
    assert "client_max_body_size 16m" in page
    assert "max_size 16MiB" in text
    assert len(list(yaml.safe_load_all(files[1]))) == 2


def test_the_service_gives_the_server_the_time_that_it_may_take() -> None:
    unit = (DEPLOY / "cls-serve.service").read_text(encoding="utf-8")
    (stop,) = re.findall(r"^TimeoutStopSec=(\d+)$", unit, re.MULTILINE)
    given = ServeOptions(bundles=("x",))
    assert int(stop) > given.drain_delay_s + given.shutdown_timeout_s
