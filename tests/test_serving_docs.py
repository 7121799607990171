"""docs/guides/serve.md against the code: every option, variable, status, endpoint, bound and metric, and no other."""

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
PAGE = (ROOT / "docs" / "guides" / "serve.md").read_text(encoding="utf-8")
# A request that is asked for by its name as a method and a path.
PATH = re.compile(r"/[\w/{}.]*")


def section(title: str) -> str:
    """What stands below a heading, up to the next one of its level or above."""
    level = re.match(r"#+", title)
    assert level is not None
    found = re.search(rf"^{re.escape(title)}$\n(.*?)(?=^#{{1,{len(level[0])}}} |\Z)", PAGE, re.DOTALL | re.MULTILINE)
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
        if action.dest not in ("help", "version"):
            found[next((name for name in action.option_strings if name.startswith("--")), "BUNDLE...")] = action
    return found


def test_every_option_is_there_with_its_variable() -> None:
    table = {re.sub("`", "", row[0]): row[1].strip("`") for row in rows(section("### Options"))}
    expected = {name: f"CLS_SERVE_{name.strip('-.').replace('-', '_').upper()}" for name in options()}
    assert table == expected


def test_every_option_is_among_the_commands() -> None:
    page = (ROOT / "docs" / "reference" / "commands.md").read_text(encoding="utf-8")
    (found,) = re.findall(r"^## cls-serve$(.*?)^## ", page, re.DOTALL | re.MULTILINE)
    assert set(re.findall(r"`(--[a-z-]+)", found)) == set(options()) - {"BUNDLE..."}


def test_the_defaults_are_the_servers() -> None:
    told = {row[0].strip("`"): row[2] for row in rows(section("### Options"))}
    given = ServeOptions(bundles=("x",))
    expected = {
        "--host": f"`{given.host}`",
        "--port": f"`{given.port}`",
        "--variant": f"`{given.variant}`",
        "--engine": f"`{given.engine}`",
        "--on-overflow": f"`{given.on_overflow}`",
        "--max-inputs": f"`{given.max_inputs}`",
        "--max-body": f"`{given.max_body_bytes // 2**20}MiB`",
        "--max-queue-ms": f"`{given.max_queue_ms:g}`",
        "--deadline": f"`{given.deadline_s:g}` seconds",
        "--shutdown-timeout": f"`{given.shutdown_timeout_s:g}` seconds",
        "--drain-delay": f"`{given.drain_delay_s:g}` seconds",
        "--log-format": f"`{given.log_format}`",
    }
    assert {name: told[name] for name in expected} == expected


def test_every_status_is_there() -> None:
    told = {int(row[0]) for row in rows(section("### Statuses"))}
    assert told == {*STATUS.values(), 422, 424}


def test_every_endpoint_is_there() -> None:
    told = {path for row in rows(section("## Endpoints")) for path in PATH.findall(row[0])}
    assert {endpoint.path.replace(":path", "") for endpoint in ENDPOINTS} == told


def test_the_bounds_are_the_servers() -> None:
    from cls_runtime.serving.limits import Limits

    limits, text = Limits(), section("### Bounds without an option")
    for words in (
        f"{limits.connections:,}, and the limit of open files",
        f"| {limits.idle_s:g} s | closed",
        f"{limits.head_bytes // 1024} KiB, {limits.head_s:g} s",
        f"(pipelining) | {limits.pipelined} |",
        f"{limits.unread_bytes // 1024} KiB in {limits.unread_s:g} s",
        f"{limits.discard_bytes // 2**20} MiB, {limits.linger_s:g} s",
    ):
        assert words in text
    statuses = section("### Statuses")
    assert f"took longer than {limits.head_s:g} s" in statuses
    assert f"more than {limits.head_bytes // 1024} KiB" in statuses


def test_the_bounds_of_other_modules_are_theirs() -> None:
    from cls_runtime.serving import admission, bodies, listening, request_log, service

    text = section("### Bounds without an option")
    assert f"queue of {listening.BACKLOG:,} " in text
    assert f"turn | {admission.WAITING_FOR_TOKENIZER} |" in text
    assert f"no batch ends | {service.STALLED_SECONDS:g} s |" in text
    assert f"wait to be written | {request_log.MOST_LINES:,} |" in text
    assert f"{admission.BODIES_HELD} bodies of this size" in section("### Options")
    assert f"more than {bodies.MOST_STRINGS:,} strings" in section("### Statuses")


@pytest.fixture(scope="module")
def metrics() -> dict[str, set[str]]:
    """The names of the labels of each metric, `process_` left out."""
    registry: Any = Metrics([], ["/embed"])._registry
    return {metric.name: {*metric_labels(metric)} for metric in registry.collect() if not metric.name.startswith("process_")}


def metric_labels(metric: Any) -> set[str]:
    return {label for sample in metric.samples for label in sample.labels} - {"le"}


def test_every_metric_is_there(metrics: dict[str, set[str]]) -> None:
    told = {name for row in rows(section("## Metrics and log")) for name in re.findall(r"`(cls_\w+)", row[0])}
    assert {name.removesuffix("_total") for name in told} == set(metrics)
    for name, labels in re.findall(r"`(cls_\w+)\{([\w,]+)\}`", section("## Metrics and log")):
        found = metrics[name.removesuffix("_total")]
        assert not found or found == set(labels.split(",")), name  # without a model there is no series of cls_model_info


def test_the_reasons_and_phases_are_the_servers() -> None:
    from cls_runtime.serving.record import PHASES

    (cancelled,) = [row for row in rows(section("## Metrics and log")) if row[0].startswith("`cls_cancelled")]
    assert tuple(re.findall(r"`(\w+)`", cancelled[1])) == get_args(CancelReason)
    (phases,) = [row for row in rows(section("## Metrics and log")) if row[0].startswith("`cls_phase")]
    assert tuple(re.findall(r"`(\w+)`", phases[1])) == PHASES


def test_the_alerts_ask_for_metrics_that_there_are(metrics: dict[str, set[str]]) -> None:
    (rules,) = re.findall(r"^```yaml\n(groups:.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    alerts = [rule for group in yaml.safe_load(rules)["groups"] for rule in group["rules"]]
    assert len({rule["alert"] for rule in alerts}) == len(alerts) >= 5
    for rule in alerts:
        asked = {re.sub(r"_(total|bucket)$", "", name) for name in re.findall(r"\bcls_\w+", rule["expr"])}
        assert asked <= set(metrics), rule["alert"]
        for name, labels in re.findall(r"\b(cls_\w+)\{(.*?)\}", rule["expr"]):
            found = metrics[re.sub(r"_(total|bucket)$", "", name)]
            assert set(re.findall(r"(\w+)=", labels)) <= found, rule["alert"]


def test_every_block_of_yaml_can_be_read() -> None:
    blocks = re.findall(r"^```yaml\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    assert len(blocks) == 2
    assert all(list(yaml.safe_load_all(block)) for block in blocks)


def test_the_proxies_wait_longer_than_the_deadline_and_keep_connections_for_less_than_the_server() -> None:
    from cls_runtime.serving.limits import Limits

    text, limits, given = section("## Behind a proxy"), Limits(), ServeOptions(bundles=("x",))
    waits = [int(found) for found in re.findall(r"(?:read_timeout|response_header_timeout|  timeout:) (\d\d)s", text)]
    keeps = [int(found) for found in re.findall(r"(?:keepalive_timeout|keepalive|idle_timeout:) (\d+)s", text)]
    assert len(waits) == len(keeps) == 3
    assert min(waits) > given.deadline_s
    assert max(keeps) < limits.idle_s
    assert f"less than {limits.idle_s:g} s" in text
    assert "client_max_body_size 16m" in text
    assert "max_size 16MiB" in text
