"""deploy/kubernetes.yaml against the schemas that Kubernetes publishes."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from support import BIN, clean_environment

DEPLOY = Path(__file__).parents[1] / "deploy"
KUBERNETES = "1.30"  # older than what any cloud still offers


def manifests() -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text()))


def pods() -> dict[str, dict[str, Any]]:
    """Return kind -> the specification of its pods."""
    return {
        each["kind"]: each["spec"]["template"]["spec"]
        for each in manifests()
        if "template" in each.get("spec", {})
    }


@pytest.mark.parametrize("version", [KUBERNETES, kubernetes_validate.latest_version()])
def test_manifests_are_valid(version: str) -> None:
    kinds = []
    for manifest in manifests():
        kubernetes_validate.validate(manifest, version, strict=True)
        kinds.append(manifest["kind"])
    assert kinds == ["Secret", "Job", "Deployment", "Service"]


def test_a_misspelt_field_is_not_valid() -> None:
    job = next(each for each in manifests() if each["kind"] == "Job")
    job["spec"]["completionsMode"] = job["spec"].pop("completionMode")
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(job, KUBERNETES, strict=True)


@pytest.mark.parametrize("kind", ["Job", "Deployment"])
def test_pods_have_no_rights_they_need_not(kind: str) -> None:
    pod = pods()[kind]
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] > 0
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    assert not any("hostPath" in volume for volume in volumes.values())
    for container in pod["containers"]:
        rights = container["securityContext"]
        assert rights["allowPrivilegeEscalation"] is False
        assert rights["readOnlyRootFilesystem"] is True
        assert rights["capabilities"] == {"drop": ["ALL"]}
        assert {mount["name"] for mount in container["volumeMounts"]} == set(volumes)


def test_the_pages_are_for_the_cluster_only() -> None:
    service = next(each for each in manifests() if each["kind"] == "Service")
    assert service["spec"]["type"] == "ClusterIP"


@pytest.mark.parametrize("kind", ["Job", "Deployment"])
def test_our_commands_know_the_arguments(kind: str) -> None:
    (container,) = pods()[kind]["containers"]
    command = container["args"]
    num_words = 1 if command[0] == "rml-optimize" else 2
    given = {word.split("=")[0] for word in command[num_words:]}
    known = subprocess.run(
        [BIN / command[0], *command[1:num_words], "--help"],
        env=clean_environment() | {"COLUMNS": "200"}, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert not {option for option in given if f" {option} " not in known}
