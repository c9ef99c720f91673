"""Stages as pods, through dagster-k8s and the Kubernetes client, of a stand-in for the API: no cluster was at hand."""

import signal
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from pod_server import PodServer
from pydantic import ValidationError
from stage_runs import Ran, process_of, ran, soon
from word_stages import figures, sft_job

from assets.places import Processes
from rankmill.places import Kubernetes
from training.jobs import ModelRef

pytest.importorskip("dagster_k8s", reason="dagster-k8s is not installed: make test-places")

VOLUME = {"name": "home", "persistentVolumeClaim": {"claimName": "rankmill-home"}}


@pytest.fixture
def server() -> Iterator[PodServer]:
    with PodServer() as running:
        yield running


def in_pods(server: PodServer, home: Path, **values: Any) -> Processes:
    place = {
        "where": "kubernetes", "image": "rankmill:test", "python": sys.executable, "namespace": "mill",
        "kubeconfig": str(server.kubeconfig(home)), "poll_seconds": 0.2, "stages": {"sft": {}}, **values,
    }  # fmt: skip
    return Processes(Kubernetes.model_validate(place), home)


def test_a_stage_in_a_pod_makes_the_weights_of_the_local_process_and_tells_every_step(
    server: PodServer, here: Ran, words: ModelRef, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret-of-a-test")
    home = {"name": "home", "mountPath": str(tmp_path)}
    place = in_pods(
        server,
        tmp_path,
        stages={"sft": {"cpus": 8, "gpus": 2, "memory_gb": 64, "pod": {"nodeSelector": {"gpu": "a100"}}}},
        pod={"volumes": [VOLUME], "serviceAccountName": "mill"},
        container={"volumeMounts": [home], "envFrom": [{"secretRef": {"name": "rankmill"}}]},
    )
    there = ran(place, sft_job(words, rows, tmp_path / "models"))
    assert there.failure == "" and here.result is not None and there.result is not None
    assert there.result.weights_sha256 == here.result.weights_sha256
    assert figures(there.result) == figures(here.result)
    assert [line.split()[1] for line in there.told] == [f"{n}/14" for n in range(1, 15)]
    (pod,) = server.created
    assert server.deleted == [pod["metadata"]["name"]]
    spec = pod["spec"]
    (container,) = spec["containers"]
    assert spec["volumes"] == [VOLUME] and spec["nodeSelector"] == {"gpu": "a100"} and spec["restartPolicy"] == "Never"
    assert spec["serviceAccountName"] == "mill"
    assert container["volumeMounts"] == [home] and container["envFrom"] == [{"secretRef": {"name": "rankmill"}}]
    assert container["resources"] == {
        "requests": {"cpu": "8", "memory": "64G"}, "limits": {"memory": "64G", "nvidia.com/gpu": "2"},
    }  # fmt: skip
    assert "sk-secret-of-a-test" not in str(pod)


def test_a_pod_that_fails_ends_the_run_with_its_last_lines_and_is_deleted(
    server: PodServer, words: ModelRef, tmp_path: Path
) -> None:
    there = ran(in_pods(server, tmp_path), sft_job(words, tmp_path / "gone.parquet", tmp_path / "models"))
    assert there.result is None and len(server.deleted) == 1
    assert "the pod's process ended with exit code 1 (Error)" in there.failure
    assert "gone.parquet" in there.failure and "sft ended without a result in" in there.failure


def test_a_pod_that_is_killed_for_its_memory_is_named_so(
    server: PodServer, words: ModelRef, rows: Path, tmp_path: Path
) -> None:
    job = sft_job(words, rows, tmp_path / "models")
    with ThreadPoolExecutor() as pool:
        run = pool.submit(ran, in_pods(server, tmp_path), job)
        soon(lambda: process_of(job)).send_signal(signal.SIGKILL)
        there = run.result()
    assert there.result is None and "exit code 137 (OOMKilled)" in there.failure and len(server.deleted) == 1


def test_what_the_cluster_refuses_is_told_in_its_words(server: PodServer, words: ModelRef, tmp_path: Path) -> None:
    server.refuse = "pods is forbidden: exceeded quota"
    there = ran(in_pods(server, tmp_path), sft_job(words, tmp_path / "rows.parquet", tmp_path / "models"))
    assert "Kubernetes refused (403 Forbidden)" in there.failure and "exceeded quota" in there.failure


def test_without_a_cluster_the_error_says_what_to_try(
    server: PodServer, words: ModelRef, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost = tmp_path / "lost.yaml"
    there = ran(in_pods(server, tmp_path, kubeconfig=str(lost)), sft_job(words, tmp_path / "rows", tmp_path / "models"))
    assert "no cluster to ask" in there.failure and "kubectl get pods -n mill" in there.failure


def test_a_profile_gives_a_stages_pod_no_containers_of_its_own() -> None:
    with pytest.raises(ValidationError, match="belong into `container`"):
        Kubernetes(where="kubernetes", image="i", stages={"sft": {}}, pod={"containers": []})
