"""The manifests in docker/kubernetes, as far as they can be judged without a cluster."""

import re
from typing import Any

import kubernetes_validate  # type: ignore[import-untyped]
import pytest
import typer
import yaml  # type: ignore[import-untyped]

from jobs.cli.main import app
from jobs.wiring.settings import ROOT, load_settings
from serving.routes import ROUTES

FOLDER = ROOT / "docker" / "kubernetes"
KUSTOMIZATION = yaml.safe_load((FOLDER / "kustomization.yaml").read_text(encoding="utf-8"))
DOCUMENTS: list[dict[str, Any]] = [
    document
    for name in KUSTOMIZATION["resources"]
    for document in yaml.safe_load_all((FOLDER / name).read_text(encoding="utf-8"))
]
NAMED = {f"{each['kind']}/{each['metadata']['name']}": each for each in DOCUMENTS}


def template(document: dict[str, Any]) -> dict[str, Any] | None:
    """The pod template of a workload."""
    spec = document.get("spec", {})
    found: dict[str, Any] | None = spec.get("jobTemplate", {}).get("spec", spec).get("template")
    return found


PODS = {name: found for name, each in NAMED.items() if (found := template(each)) is not None}


@pytest.mark.parametrize("name", NAMED)
def test_a_manifest_is_what_kubernetes_takes(name: str) -> None:
    kubernetes_validate.validate(NAMED[name], "1.34", strict=True)


def test_a_manifest_that_is_wrong_is_found() -> None:
    wrong = {**NAMED["Deployment/serve"], "spec": {"replica": 3}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, "1.34", strict=True)


def test_every_file_is_a_resource_and_everything_lies_in_one_namespace() -> None:
    assert {path.name for path in FOLDER.glob("*.yaml")} == {
        "kustomization.yaml",
        *KUSTOMIZATION["resources"],
    }
    assert len(NAMED) == len(DOCUMENTS)
    for name, each in NAMED.items():
        assert name.startswith("Namespace/") or each["metadata"]["namespace"] == KUSTOMIZATION["namespace"]


@pytest.mark.parametrize("name", PODS)
def test_a_pod_runs_a_verb_of_ours_without_rights_and_within_limits(name: str) -> None:
    spec = PODS[name]["spec"]
    (container,) = spec["containers"]
    verb, *arguments = container["args"]
    commands: dict[str, Any] = vars(typer.main.get_command(app))["commands"]
    commands[verb].make_context(verb, list(arguments))
    assert spec["securityContext"]["runAsNonRoot"]
    assert container["securityContext"]["readOnlyRootFilesystem"]
    assert not container["securityContext"]["allowPrivilegeEscalation"]
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert {"cpu", "memory"} <= set(container["resources"]["requests"])
    assert "memory" in container["resources"]["limits"]
    user = re.search(r"--uid (\d+)", (ROOT / "docker" / "Dockerfile").read_text(encoding="utf-8"))
    assert user
    assert spec["securityContext"]["runAsUser"] == int(user[1])
    version = re.search(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.M)
    assert version
    assert container["image"] == f"anabranch:{version[1]}"
    assert KUSTOMIZATION["images"] == [{"name": "anabranch", "newTag": version[1]}]
    mounted = {each["name"] for each in container["volumeMounts"]}
    assert mounted == {each["name"] for each in spec["volumes"]}


@pytest.mark.parametrize("name", PODS)
def test_settings_of_a_pod_are_settings(name: str) -> None:
    (container,) = PODS[name]["spec"]["containers"]
    own = {each["name"]: each["value"] for each in container["env"]}
    given = {**NAMED["ConfigMap/anabranch"]["data"], **own}
    settings = load_settings(given, {})
    assert not settings.kafka_embedded
    assert not settings.cassandra_embedded
    assert not [key for key in given if re.search("PASSWORD|SECRET|TOKEN|KEY", key)]


def test_what_selects_pods_selects_those_that_are_there() -> None:
    labels = {each["metadata"]["labels"]["app"] for each in PODS.values()}
    for name in ("Deployment/serve", "Deployment/stream", "Deployment/trainer", "PodDisruptionBudget/serve"):
        assert NAMED[name]["spec"]["selector"]["matchLabels"]["app"] in labels
    assert NAMED["Service/serve"]["spec"]["selector"] == {"app": "serve"}
    assert NAMED["HorizontalPodAutoscaler/serve"]["spec"]["scaleTargetRef"]["name"] == "serve"
    least = NAMED["HorizontalPodAutoscaler/serve"]["spec"]["minReplicas"]
    assert NAMED["PodDisruptionBudget/serve"]["spec"]["minAvailable"] < least
    assert NAMED["NetworkPolicy/nobody"]["spec"] == {"podSelector": {}, "policyTypes": ["Ingress"]}


def test_probes_ask_for_paths_that_the_server_answers() -> None:
    (container,) = PODS["Deployment/serve"]["spec"]["containers"]
    asked = {container[f"{kind}Probe"]["httpGet"]["path"] for kind in ("startup", "readiness", "liveness")}
    assert asked <= {route.path for route in ROUTES}
    assert container["ports"][0]["containerPort"] == load_settings({}, {}).serving.port
