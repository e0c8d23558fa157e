"""The production shape: Dockerfiles, Compose file, wheel, and the page that explains them."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import sysconfig
import threading
import tomllib
import zipfile
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.main import get_command

from app.cli import app as cli
from app.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
API, WORKER = ROOT / "docker/api.Dockerfile", ROOT / "docker/worker.Dockerfile"
DOCKERFILES = pytest.mark.parametrize("path", [API, WORKER], ids=lambda path: path.name)
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
LONG_RUNNING = ["postgres", "redis", "api", "worker", "worker-cpu"]
OURS = ["migrate", "api", "worker", "worker-cpu"]
SECRET = re.compile(r"PASSWORD|TOKEN|SECRET|KEY", re.IGNORECASE)
YAMLLINT = "{extends: default, rules: {document-start: disable, line-length: {max: 100}}}"


def instructions(path: Path) -> list[tuple[str, str]]:
    """A Dockerfile's instructions and their arguments, continued lines joined."""
    lines = [line for line in path.read_text().splitlines() if not line.lstrip().startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ").splitlines()
    parts = [line.strip().partition(" ") for line in joined if line.strip()]
    return [(word.upper(), rest.strip()) for word, _, rest in parts]


def final_stage(path: Path) -> list[tuple[str, str]]:
    """The instructions that make the image that runs."""
    found = instructions(path)
    start = max(place for place, (word, _) in enumerate(found) if word == "FROM")
    return found[start:]


def arguments(path: Path, word: str) -> list[str]:
    """What one instruction is given, in the final stage."""
    return [rest for found, rest in final_stage(path) if found == word]


def hadolint(path: Path) -> subprocess.CompletedProcess[str]:
    """The linter's verdict."""
    binary = Path(sysconfig.get_path("scripts")) / "hadolint"
    return subprocess.run([binary, path], capture_output=True, text=True, check=False)


def parse_command(words: list[str]) -> str:
    """The sub-command that a command line names; fails on any option it does not know."""
    assert words[0] == "surgeon"
    command: Any = get_command(cli)
    rest = words[1:]
    while hasattr(command, "commands"):
        command = command.commands[rest.pop(0)]
    command.make_context("surgeon", rest).close()
    return str(command.name)


def image_tag(image: str) -> str:
    """The tag of an image's name."""
    return image.rpartition("/")[2].partition(":")[2]


@DOCKERFILES
def test_the_linter_finds_nothing(path: Path) -> None:
    verdict = hadolint(path)
    assert (verdict.returncode, verdict.stdout + verdict.stderr) == (0, "")


def test_the_linter_finds_something_where_there_is_something(tmp_path: Path) -> None:
    bad = tmp_path / "Dockerfile"
    bad.write_text("FROM python:latest\nRUN pip install torch\nCMD surgeon api\n")
    verdict = hadolint(bad)
    assert verdict.returncode == 1
    assert {"DL3007", "DL3013", "DL3025"} <= set(re.findall(r"DL\d+", verdict.stdout))


@DOCKERFILES
def test_bases_are_pinned_to_a_patch_release(path: Path) -> None:
    bases = [rest.split()[0] for word, rest in instructions(path) if word == "FROM"]
    assert len(bases) == 2
    assert all(re.fullmatch(r"python:3\.11\.\d+-slim-\w+", base) for base in bases)


@DOCKERFILES
def test_the_image_runs_as_a_fixed_user_that_is_not_root(path: Path) -> None:
    words = [word for word, _ in final_stage(path)]
    assert arguments(path, "USER") == ["10001:10001"]
    assert words.index("USER") < words.index("CMD")
    assert "COPY" not in words[words.index("USER") :]


@DOCKERFILES
def test_the_image_gets_one_folder_and_builds_nothing(path: Path) -> None:
    assert arguments(path, "COPY") == ["--from=build /opt/venv /opt/venv"]
    assert not re.search(r"\b(pip|apt-get|curl|gcc)\b", " ".join(arguments(path, "RUN")))


@DOCKERFILES
def test_nothing_is_fetched_by_url_and_no_secret_is_baked_in(path: Path) -> None:
    found = instructions(path)
    assert "ADD" not in {word for word, _ in found}
    assert "://" not in path.read_text()
    names = [
        name
        for word, rest in found
        if word in {"ENV", "ARG"}
        for name in re.findall(r"(\w+)(?:=|$)", rest)
    ]
    assert names
    assert not [name for name in names if SECRET.search(name)]


@DOCKERFILES
def test_dependencies_are_installed_at_their_pinned_versions(path: Path) -> None:
    runs = [rest for word, rest in instructions(path) if word == "RUN"]
    installs = [run for run in runs if re.search(r"\binstall\b", run) and "pip" in run]
    assert installs
    assert all("--constraint constraints.txt" in run for run in installs)
    pins = dict(re.findall(r"(?m)^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text()))
    wanted = [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["worker"], "hatchling"]
    known = {name.lower().replace("_", "-") for name in pins}
    assert [w for w in wanted if re.split(r"[\[>=<]", w)[0] not in known] == []


@DOCKERFILES
def test_what_is_copied_exists_and_reaches_the_builder(path: Path) -> None:
    allowed = (ROOT / ".dockerignore").read_text().split()
    for word, rest in instructions(path):
        if word == "COPY" and not rest.startswith("--from"):
            for source in rest.split()[:-1]:
                assert (ROOT / source).exists(), source
                assert f"!{source}" in allowed


@DOCKERFILES
def test_the_image_runs_a_real_command(path: Path) -> None:
    (command,) = arguments(path, "CMD")
    assert parse_command(json.loads(command)) == path.name.partition(".")[0]


def health_check(path: Path, here: str, there: str) -> int:
    """Run an image's health check on something else than it looks at in a container."""
    (check,) = arguments(path, "HEALTHCHECK")
    python, flag, code = json.loads(check.partition("CMD ")[2])
    assert (python, flag) == ("python", "-c")
    assert here in code
    command = [sys.executable, flag, code.replace(here, there)]
    return subprocess.run(command, capture_output=True, check=False).returncode


@pytest.mark.parametrize(("status", "well"), [(200, True), (503, False)])
def test_an_api_is_well_while_it_answers(status: int, well: bool) -> None:
    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path == "/healthz" else 404)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever).start()
        returned = health_check(API, "8000", str(server.server_port))
        server.shutdown()
    assert (returned == 0) == well
    assert health_check(API, "8000", str(server.server_port)) != 0  # it is gone


def test_a_worker_is_well_while_it_has_its_job_process(tmp_path: Path) -> None:
    (tmp_path / "worker").mkdir()
    (tmp_path / "worker/__init__.py").touch()  # before the installed package of that name
    (tmp_path / "worker/child.py").write_text("print(flush=True); input()")
    child = subprocess.Popen(
        [sys.executable, "-m", "worker.child", "1"],  # as worker/process.py starts it
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=tmp_path, env={},
    )  # fmt: skip
    assert child.stdout
    child.stdout.readline()
    words = Path(f"/proc/{child.pid}/cmdline").read_bytes()
    child.kill()
    child.communicate()
    (tmp_path / "7").mkdir()
    (tmp_path / "7/cmdline").write_bytes(b"python\0-c\0-m worker.child\0")  # talks of it
    assert health_check(WORKER, "/proc", str(tmp_path)) == 1
    (tmp_path / "8").mkdir()
    (tmp_path / "8/cmdline").write_bytes(words)
    assert health_check(WORKER, "/proc", str(tmp_path)) == 0


def test_the_api_image_has_no_torch() -> None:
    text = " ".join(rest for _, rest in instructions(API))
    assert "torch" not in text
    assert "[worker]" not in text
    assert not {"torch", "transformers", "datasets"} & {
        re.split(r"[\[>=<]", wanted)[0] for wanted in PROJECT["dependencies"]
    }


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


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package, built as the images build it and unpacked."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    (packed,) = folder.glob("*.whl")
    with zipfile.ZipFile(packed) as archive:
        archive.extractall(folder / "unpacked")
    return folder / "unpacked"


def test_the_wheel_carries_every_migration(wheel: Path) -> None:
    packed = {path.name for path in (wheel / "app/migrations/versions").glob("*.py")}
    assert packed == {path.name for path in (ROOT / "alembic/versions").glob("*.py")}
    assert packed
    assert (wheel / "app/migrations/env.py").is_file()


def test_the_wheel_needs_no_torch_by_itself(wheel: Path) -> None:
    (metadata,) = wheel.glob("*.dist-info/METADATA")
    needs = re.findall(r"(?m)^Requires-Dist: ([\w-]+)(.*)$", metadata.read_text())
    assert any(name == "torch" for name, _ in needs)
    assert not [name for name, rest in needs if name == "torch" and "extra ==" not in rest]


def test_the_installed_package_migrates_a_database(wheel: Path, tmp_path: Path) -> None:
    code = (
        "import app.db; assert '/unpacked/' in app.db.__file__;"
        "d = app.db.Database('sqlite:///new.db'); d.upgrade(); assert d.is_at_head()"
    )
    subprocess.run(
        [sys.executable, "-P", "-c", code],
        cwd=tmp_path, env={"PYTHONPATH": str(wheel)}, check=True, timeout=60,
    )  # fmt: skip


def variables() -> dict[str, str]:
    """Every setting's variable and its default, as the documentation writes it."""
    found = {}
    for name, field in Settings.model_fields.items():
        default = field.default
        if isinstance(default, timedelta):
            text = f"{default.total_seconds():g}"
        elif isinstance(default, bool):
            text = str(default).lower()
        else:
            text = str(default) if default else "–"
        found[str(field.validation_alias or f"SURGEON_{name.upper()}")] = text
    return found


def test_the_page_lists_every_setting_with_its_default() -> None:
    page = (ROOT / "docs/deployment.md").read_text()
    table = page.partition("## Settings")[2]
    rows = re.findall(r"(?m)^\| `(\w+)` \| `?([^`|]+?)`? \|", table)
    assert dict(rows) == variables()


def test_the_page_names_every_variable_that_compose_reads() -> None:
    page = (ROOT / "docs/deployment.md").read_text()
    text = (ROOT / "docker-compose.yml").read_text()
    assert [v for v in set(re.findall(r"\$\{(\w+)", text)) if f"`{v}`" not in page] == []


def test_the_page_shows_real_commands() -> None:
    page = (ROOT / "docs/deployment.md").read_text()
    shown = re.findall(r"`surgeon ([a-z -]+?)`", page)
    assert {"serve", "api", "worker", "key", "db upgrade"} <= set(shown)
    for line in shown:
        parse_command(["surgeon", *line.split()])


def test_the_page_names_the_package_of_the_object_store() -> None:
    section = (ROOT / "docs/deployment.md").read_text().partition("## Object storage")[2]
    assert "s3://" in section.partition("\n## ")[0]
    assert "extra package `s3fs`" in section.partition("\n## ")[0]
