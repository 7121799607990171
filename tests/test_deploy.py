"""deploy/compose.yaml and deploy/kubernetes.yaml: what one field promises, the others hold."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from container_image import stages

from cls_runtime.commands import serve

ROOT = Path(__file__).resolve().parent.parent
DEPLOY = ROOT / "deploy"
BASE = stages((DEPLOY / "Dockerfile").read_text(encoding="utf-8"))["base"]
SECONDS = {"s": 1.0, "m": 60.0}


@pytest.fixture(scope="module")
def service() -> dict[str, Any]:
    """compose's one service."""
    return yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))["services"]["server"]


@pytest.fixture(scope="module")
def manifests() -> dict[str, dict[str, Any]]:
    """The Kubernetes objects by their kind."""
    found = [item for item in yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text(encoding="utf-8")) if item]
    assert len({item["kind"] for item in found}) == len(found)
    return {item["kind"]: item for item in found}


@pytest.fixture(scope="module")
def pod(manifests: dict[str, dict[str, Any]]) -> dict[str, Any]:
    return manifests["Deployment"]["spec"]["template"]["spec"]


@pytest.fixture(scope="module")
def server(pod: dict[str, Any]) -> dict[str, Any]:
    (found,) = pod["containers"]
    return found


@pytest.fixture
def variables(capsys: pytest.CaptureFixture[str]) -> set[str]:
    """Every CLS_SERVE_ variable that the command has: one for each option of its help."""
    with contextlib.suppress(SystemExit):
        serve.main(["--help"])
    flags = set(re.findall(r"--[a-z][a-z-]+", capsys.readouterr().out)) - {"--help", "--version"}
    return {"CLS_SERVE_BUNDLE", *(f"CLS_SERVE_{flag[2:].replace('-', '_').upper()}" for flag in flags)}


def settings(pairs: list[dict[str, Any]]) -> dict[str, str]:
    return {pair["name"]: pair["value"] for pair in pairs}


def seconds(text: str) -> float:
    """`35s` as a number."""
    return float(text[:-1]) * SECONDS[text[-1]]


def test_every_variable_is_one_that_the_server_reads(variables: set[str], service: dict[str, Any], server: dict[str, Any]) -> None:
    image = {word.partition("=")[0] for step in BASE.steps if step.keyword == "ENV" for word in step.words}
    written = {name for name in image if name.startswith("CLS_SERVE_")} | set(service["environment"]) | set(settings(server["env"]))
    assert {"CLS_SERVE_BUNDLE", "CLS_SERVE_HOST", "CLS_SERVE_API_KEY_FILE"} <= written
    assert written <= variables


# ---------------------------------------------------------------- compose


def test_compose_takes_every_right_away(service: dict[str, Any]) -> None:
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    step = BASE.last("USER")
    assert step is not None
    assert service["user"] == step.value
    assert all(place.split(":")[1].split(",")[:4] == ["rw", "noexec", "nosuid", "nodev"] for place in service["tmpfs"])
    assert [volume.rpartition(":")[2] for volume in service["volumes"]] == ["ro"]
    assert all(port.startswith("127.0.0.1:") for port in service["ports"])


def test_compose_bounds_what_it_may_take(service: dict[str, Any]) -> None:
    assert service["cpus"] == 2
    assert service["mem_limit"] == "1g"
    assert service["pids_limit"] > 2 * service["cpus"]
    assert service["ulimits"]["nofile"] > 4096 + 1000


def test_compose_builds_a_stage_that_there_is(service: dict[str, Any]) -> None:
    build = service["build"]
    assert (DEPLOY / build["context"] / build["dockerfile"]).samefile(DEPLOY / "Dockerfile")
    assert build["target"] in stages((DEPLOY / "Dockerfile").read_text(encoding="utf-8"))


def test_composes_key_is_a_secret_file_that_is_never_sent_to_the_engine(service: dict[str, Any]) -> None:
    secrets = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))["secrets"]
    (name,) = service["secrets"]
    assert service["environment"]["CLS_SERVE_API_KEY_FILE"] == f"/run/secrets/{name}"
    file = (DEPLOY / secrets[name]["file"]).relative_to(ROOT).as_posix()
    assert file in (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()


def test_compose_gives_the_server_the_time_that_it_may_take(service: dict[str, Any]) -> None:
    assert seconds(service["stop_grace_period"]) > float(service["environment"]["CLS_SERVE_SHUTDOWN_TIMEOUT"])


def test_composes_health_check_is_the_images(service: dict[str, Any]) -> None:
    check = BASE.last("HEALTHCHECK")
    assert check is not None
    options, _, program = check.value.partition(" CMD ")
    given = dict(re.findall(r"--([a-z-]+)=(\w+)", options))
    told = service["healthcheck"]
    assert told["test"] == ["CMD", *yaml.safe_load(program)]
    assert {name.replace("-", "_"): value for name, value in given.items()} == {
        name: str(value) for name, value in told.items() if name != "test"
    }


# ---------------------------------------------------------------- Kubernetes


def test_labels_select_the_pods(manifests: dict[str, dict[str, Any]], pod: dict[str, Any]) -> None:
    labels = manifests["Deployment"]["spec"]["template"]["metadata"]["labels"]
    assert manifests["Deployment"]["spec"]["selector"]["matchLabels"] == labels
    assert manifests["Service"]["spec"]["selector"] == labels
    assert manifests["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"] == labels
    assert [rule["labelSelector"]["matchLabels"] for rule in pod["topologySpreadConstraints"]] == [labels]


def test_one_more_is_started_before_one_ends(manifests: dict[str, dict[str, Any]]) -> None:
    rolling = manifests["Deployment"]["spec"]["strategy"]
    assert rolling == {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}}


def test_the_autoscaler_scales_this_deployment(manifests: dict[str, dict[str, Any]]) -> None:
    target = manifests["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]
    deployment = manifests["Deployment"]
    assert target == {"apiVersion": deployment["apiVersion"], "kind": "Deployment", "name": deployment["metadata"]["name"]}
    assert "replicas" not in deployment["spec"]  # each apply would set it back
    assert manifests["HorizontalPodAutoscaler"]["spec"]["minReplicas"] >= 2  # the budget of disruptions leaves one


def test_the_ports_are_one(manifests: dict[str, dict[str, Any]], server: dict[str, Any]) -> None:
    (port,) = server["ports"]
    (outside,) = manifests["Service"]["spec"]["ports"]
    annotations = manifests["Deployment"]["spec"]["template"]["metadata"]["annotations"]
    probes = [server[f"{name}Probe"]["httpGet"]["port"] for name in ("startup", "readiness", "liveness")]
    assert {outside["targetPort"], *probes} == {port["name"]}
    assert settings(server["env"])["CLS_SERVE_PORT"] == annotations["prometheus.io/port"] == str(port["containerPort"])


def test_the_probes_ask_what_the_server_answers(server: dict[str, Any]) -> None:
    pytest.importorskip("starlette")
    from cls_runtime.serving.application import ENDPOINTS

    asked = {name: server[f"{name}Probe"]["httpGet"]["path"] for name in ("startup", "readiness", "liveness")}
    assert asked == {"startup": "/ready", "readiness": "/ready", "liveness": "/live"}
    assert set(asked.values()) <= {endpoint.path for endpoint in ENDPOINTS if endpoint.method == "GET" and not endpoint.needs_key}


def test_the_pod_gives_the_server_the_time_that_it_may_take(pod: dict[str, Any], server: dict[str, Any]) -> None:
    given = settings(server["env"])
    delay, timeout = float(given["CLS_SERVE_DRAIN_DELAY"]), float(given["CLS_SERVE_SHUTDOWN_TIMEOUT"])
    assert pod["terminationGracePeriodSeconds"] > delay + timeout
    readiness = server["readinessProbe"]
    assert delay >= readiness["periodSeconds"] * readiness["failureThreshold"]  # the last request is sent while it still accepts


def test_the_pod_has_no_rights(pod: dict[str, Any], server: dict[str, Any]) -> None:
    inside = pod["securityContext"]
    step = BASE.last("USER")
    assert step is not None
    assert f"{inside['runAsUser']}:{inside['runAsGroup']}" == step.value
    assert inside["runAsNonRoot"] is True
    assert inside["seccompProfile"] == {"type": "RuntimeDefault"}
    assert server["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert pod["automountServiceAccountToken"] is False
    assert pod["enableServiceLinks"] is False


def test_the_limit_is_the_request(server: dict[str, Any]) -> None:
    assert server["resources"]["limits"] == server["resources"]["requests"]
    assert int(server["resources"]["limits"]["cpu"]) >= 1  # whole


def test_the_keys_come_from_the_secret_and_the_user_can_read_them(pod: dict[str, Any], server: dict[str, Any]) -> None:
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    mounts = {mount["name"]: mount for mount in server["volumeMounts"]}
    assert set(volumes) == set(mounts)
    secret = volumes["keys"]["secret"]
    told = (DEPLOY / "kubernetes.yaml").read_text(encoding="utf-8")
    (name, key) = re.findall(r"create secret generic (\S+) --from-file=(\w+)=", told)[0]
    assert secret["secretName"] == name
    assert settings(server["env"])["CLS_SERVE_API_KEY_FILE"] == f"{mounts['keys']['mountPath']}/{key}"
    assert mounts["keys"]["readOnly"] is True
    assert secret["defaultMode"] & 0o040, "the group reads it, which fsGroup is"
    assert pod["securityContext"]["fsGroup"] == pod["securityContext"]["runAsGroup"]


def test_the_image_is_a_version(server: dict[str, Any]) -> None:
    assert not server["image"].endswith(":latest")
    assert ":" in server["image"]
