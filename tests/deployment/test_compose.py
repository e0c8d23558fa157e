"""The Compose file."""

from __future__ import annotations

import re
import subprocess
import sys
from datetime import timedelta

import pytest

from app.settings import Settings
from tests.support.service.deployment import (
    COMPOSE,
    PROJECT,
    ROOT,
    SECRET,
    SERVICES,
    WORKER,
    arguments,
    parse_command,
    variables,
)

LONG_RUNNING = ["postgres", "redis", "api", "worker", "worker-cpu"]
OURS = ["migrate", "api", "worker", "worker-cpu"]
YAMLLINT = "{extends: default, rules: {document-start: disable, line-length: {max: 100}}}"


def image_tag(image: str) -> str:
    """The tag of an image's name."""
    return image.rpartition("/")[2].partition(":")[2]


def test_yamllint_finds_nothing() -> None:
    command = [sys.executable, "-m", "yamllint", "--strict", "-d", YAMLLINT, "docker-compose.yml"]
    verdict = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert (verdict.returncode, verdict.stdout) == (0, "")


def test_every_service_is_one_that_these_tests_know() -> None:
    assert set(SERVICES) == {*LONG_RUNNING, "migrate"}
    assert SERVICES["migrate"]["restart"] == "no"
    assert SERVICES["worker-cpu"]["profiles"] == ["cpu"]
    assert not [name for name in SERVICES if name != "worker-cpu" and "profiles" in SERVICES[name]]


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_is_confined(name: str) -> None:
    service = SERVICES[name]
    user, _, group = service["user"].partition(":")
    assert int(user) > 0
    assert int(group) > 0
    assert service["read_only"] is True
    assert service["tmpfs"]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not {"privileged", "cap_add", "network_mode", "pid", "ipc", "devices"} & set(service)
    assert set(service["deploy"]["resources"]["limits"]) == {"cpus", "memory", "pids"}
    assert not [
        v for v in service.get("volumes", []) if v.partition(":")[0] not in COMPOSE["volumes"]
    ]


@pytest.mark.parametrize("name", LONG_RUNNING)
def test_a_long_running_service_has_a_health_check_and_restarts(name: str) -> None:
    service = SERVICES[name]
    assert service["restart"] == "unless-stopped"
    built_by = service.get("build", {}).get("dockerfile")
    if built_by:
        assert "healthcheck" not in service  # the image's own
        assert arguments(ROOT / built_by, "HEALTHCHECK")
    else:
        assert service["healthcheck"]["test"][0] == "CMD"


@pytest.mark.parametrize("name", SERVICES)
def test_images_are_pinned(name: str) -> None:
    tag = image_tag(SERVICES[name]["image"])
    version = PROJECT["version"] if name in OURS else r"\d+\.\d+(\.\d+)?"
    assert re.fullmatch(rf"{version}(-\w+)?", tag)


@pytest.mark.parametrize("name", OURS)
def test_our_services_run_real_commands_as_the_images_user(name: str) -> None:
    service = SERVICES[name]
    expected = "upgrade" if name == "migrate" else name.partition("-")[0]
    assert parse_command(service["command"]) == expected
    assert arguments(ROOT / service["build"]["dockerfile"], "USER") == [service["user"]]
    assert service["init"] is True


@pytest.mark.parametrize("name", SERVICES)
def test_secrets_come_from_the_environment(name: str) -> None:
    for variable, value in SERVICES[name].get("environment", {}).items():
        if SECRET.search(variable):
            assert value is None or re.fullmatch(r"\$\{\w+:\?[^}]+\}", value), variable
        literal = re.sub(r"\$\{[^}]*\}", "", str(value))
        assert not re.search(r"://[^@/]*:[^@/]+@", literal), variable


def test_compose_refuses_to_start_without_the_secrets() -> None:
    text = (ROOT / "docker-compose.yml").read_text()
    for variable in ("POSTGRES_PASSWORD", "SURGEON_API_KEY_HASHES"):
        uses = re.findall(rf"\$\{{{variable}[^}}]*\}}", text)
        assert uses
        assert all(":?" in use for use in uses)


@pytest.mark.parametrize("name", OURS)
def test_the_environment_sets_what_the_settings_read(name: str) -> None:
    given = {v for v in SERVICES[name]["environment"] if v.startswith("SURGEON_")}
    assert given <= set(variables())


def test_only_the_api_is_published_and_only_on_loopback() -> None:
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert list(published) == ["api"]
    assert all(port.startswith("127.0.0.1:") for port in published["api"])
    for name in ("postgres", "redis", "migrate"):
        assert all(COMPOSE["networks"][n].get("internal") for n in SERVICES[name]["networks"])


def test_services_wait_for_what_they_need() -> None:
    waits = {
        name: {other: wait["condition"] for other, wait in service.get("depends_on", {}).items()}
        for name, service in SERVICES.items()
    }
    assert waits["migrate"] == {"postgres": "service_healthy"}
    for name in ("api", "worker", "worker-cpu"):
        assert waits[name] == {
            "migrate": "service_completed_successfully",
            "postgres": "service_healthy",
            "redis": "service_started",
        }


def test_redis_keeps_nothing_and_evicts_nothing() -> None:
    command = SERVICES["redis"]["command"]
    given = dict(zip(command[1::2], command[2::2], strict=True))
    assert given["--maxmemory-policy"] == "noeviction"
    assert given["--appendonly"] == "no"
    assert SERVICES["redis"].get("volumes") is None


def test_workers_are_given_time_to_save_their_state() -> None:
    grace: timedelta = Settings.model_fields["grace"].default
    for name in ("worker", "worker-cpu"):
        seconds = int(SERVICES[name]["stop_grace_period"].removesuffix("s"))
        assert seconds >= 3 * grace.total_seconds()
    assert arguments(WORKER, "STOPSIGNAL") == ["SIGTERM"]


def test_a_gpu_is_reserved_for_the_worker_alone() -> None:
    reserving = {n: s["deploy"]["resources"].get("reservations") for n, s in SERVICES.items()}
    (device,) = reserving.pop("worker")["devices"]
    assert (device["driver"], device["capabilities"]) == ("nvidia", ["gpu"])
    assert not any(reserving.values())
    variants = [SERVICES[n]["build"]["args"]["TORCH_VARIANT"] for n in ("worker", "worker-cpu")]
    assert variants == ["cuda", "cpu"]
