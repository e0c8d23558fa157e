"""The script of bash and the steps of the GitHub Action, as a shell and a runner run them."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from tests.support.models.mirror import TINY
from tests.support.service.orchestrators import EXAMPLES
from tests.support.service.services import Running, trains, wait_until

SCRIPT = EXAMPLES / "shell/rank_and_tune.sh"
ACTION = EXAMPLES / "github-action/action.yml"
WORKFLOW = EXAMPLES / "github-action/workflow.yml"
SHORT, LONG = '{"epochs": 2}', '{"epochs": 500}'
YAMLLINT = (
    "{extends: default, rules: {line-length: {max: 100}, document-start: disable, truthy: disable}}"
)


@pytest.fixture
def environment(embedded_service: Running, tmp_path: Path) -> dict[str, str]:
    """Where the service is, and the name of a run that is this test's own."""
    return {
        "PATH": os.environ["PATH"], "HOME": str(tmp_path), "RUN_ID": tmp_path.name,
        "SURGEON_URL": embedded_service.client.url, "SURGEON_TRAINING": SHORT,
        "SURGEON_JOB_FILE": str(tmp_path / "job"), "TMPDIR": str(tmp_path),
    }  # fmt: skip


def words_of(dataset: str | Path, folder: Path, k: int = 1) -> list[str]:
    return ["bash", str(SCRIPT), TINY, str(dataset), str(k), str(folder)]


def run(words: list[str], environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, env=environment, capture_output=True, text=True, check=False)


@contextmanager
def training(
    service: Running, words: list[str], environment: dict[str, str]
) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """A command while its fine-tune trains, and that job's id."""
    started = subprocess.Popen(
        words, env=environment, stderr=subprocess.DEVNULL, start_new_session=True
    )
    file = Path(environment["SURGEON_JOB_FILE"])

    def trained() -> bool:
        job = file.read_text().strip() if file.exists() else ""
        return job.startswith("ft_") and trains(service.client.job(job))

    with started:
        try:
            wait_until(trained, 120, service.logs)
            yield started, file.read_text().strip()
        finally:
            kill(started)


def kill(process: subprocess.Popen[bytes]) -> None:
    """End a command with all that it has started, as a machine that is switched off does."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def test_the_script_ranks_tunes_and_downloads_once_a_run(
    environment: dict[str, str], rows: Path, tmp_path: Path, embedded_service: Running
) -> None:
    first = run(words_of(rows, tmp_path / "model", k=2), environment)
    assert first.returncode == 0, first.stderr
    assert (tmp_path / "model/model.safetensors").is_file()
    tuned = embedded_service.client.job((tmp_path / "job").read_text().strip())
    assert len(tuned["result"]["trained_layers"]) == 2
    assert tuned["result"]["best_checkpoint"] in first.stdout
    again = run(words_of(rows, tmp_path / "again", k=2), environment)
    assert again.stdout.replace("/again", "/model") == first.stdout
    assert f"{tuned['id']} is succeeded" in again.stderr, "taken up, not started"


def test_what_the_service_refuses_is_told_in_its_words(
    environment: dict[str, str], tmp_path: Path
) -> None:
    told = run(words_of("glue/colla", tmp_path / "model"), environment)
    assert told.returncode == 1
    assert "(dataset_not_found)" in told.stderr
    assert "did you mean 'glue/cola'" in told.stderr
    environment["SURGEON_TRAINING"] = '{"epochs": 0}'
    told = run(words_of("glue/rte", tmp_path / "model"), environment)
    assert told.returncode == 1
    assert "/training/epochs" in told.stderr
    environment |= {"SURGEON_URL": "http://127.0.0.1:9", "SURGEON_PATIENCE": "1"}
    told = run(words_of("glue/rte", tmp_path / "model"), environment)
    assert told.returncode == 7
    assert "Failed to connect" in told.stderr


@pytest.mark.slow
def test_a_script_that_is_ended_cancels_its_job_which_the_next_tries_again(
    environment: dict[str, str], tmp_path: Path, embedded_service: Running
) -> None:
    client, words = embedded_service.client, words_of("glue/rte", tmp_path / "model")
    environment["SURGEON_TRAINING"] = LONG
    with training(embedded_service, words, environment) as (script, job):
        script.send_signal(signal.SIGTERM)
        assert script.wait(60) == 130
    assert client.wait(client.job(job))["status"] == "cancelled"
    assert not list(tmp_path.glob("tmp.*")), "its files are removed"
    with training(embedded_service, words, environment) as (script, again):
        assert client.job(again)["retry_of"] == job
        client.cancel(again)
        assert script.wait(60) == 1, "somebody else has cancelled it"


CONTEXT = re.compile(r"\$\{\{ ([\w.-]+) \}\}")


class Runner:
    """Runs the steps of a composite action as GitHub's runner does."""

    def __init__(self, folder: Path, environment: dict[str, str], inputs: dict[str, str]) -> None:
        self.action = yaml.safe_load(ACTION.read_text())
        given = {name: spec.get("default") for name, spec in self.action["inputs"].items()}
        assert [name for name in inputs if name not in given] == []
        self.values = {f"inputs.{name}": value for name, value in {**given, **inputs}.items()}
        self.values |= {
            "runner.temp": str(folder), "github.repository": "ada/texts", "github.job": "train",
            "github.run_id": folder.name,
        }  # fmt: skip
        self.files = {
            name: str(folder / name.lower()) for name in ("GITHUB_OUTPUT", "GITHUB_STEP_SUMMARY")
        }
        self.environment = {
            **{name: environment[name] for name in ("PATH", "HOME", "TMPDIR")}, **self.files,
            "GITHUB_ACTION_PATH": str(ACTION.parent),
        }  # fmt: skip

    def filled(self, text: str) -> str:
        """A text with what stands for the expressions in it; all of them must be known."""
        return CONTEXT.sub(lambda found: self.values[found[1]], text)

    def step(self, number: int) -> tuple[list[str], dict[str, str]]:
        """The command and the variables of a step."""
        step = self.action["runs"]["steps"][number]
        assert step["shell"] == "bash"
        assert not CONTEXT.search(step["run"]), "an input could be a command"
        own = {name: self.filled(value) for name, value in step["env"].items()}
        words = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]]
        return words, {**self.environment, **own}


def inputs(service: Running, dataset: str | Path, folder: Path, **more: str) -> dict[str, str]:
    return {
        "url": service.client.url, "api-key": "sk_none_is_needed", "model": TINY, "k": "1",
        "dataset": str(dataset), "folder": str(folder / "model"), "training": SHORT, **more,
    }  # fmt: skip


def test_the_action_trains_and_says_where_the_model_is(
    environment: dict[str, str], rows: Path, tmp_path: Path, embedded_service: Running
) -> None:
    given = inputs(embedded_service, rows, tmp_path)
    runner = Runner(tmp_path, environment, given)
    done = run(*runner.step(0))
    assert done.returncode == 0, done.stderr
    outputs = dict(
        line.split("=", 1) for line in Path(runner.files["GITHUB_OUTPUT"]).read_text().splitlines()
    )
    declared = {
        name: CONTEXT.fullmatch(spec["value"])[1].rpartition(".")[2]  # type: ignore[index]
        for name, spec in runner.action["outputs"].items()
    }
    assert set(declared.values()) == set(outputs)
    assert (Path(outputs["folder"]) / "config.json").is_file()
    assert outputs["job"].startswith("ft_")
    assert "trained" in Path(runner.files["GITHUB_STEP_SUMMARY"]).read_text()


def test_the_action_fails_with_the_script(
    environment: dict[str, str], tmp_path: Path, embedded_service: Running
) -> None:
    runner = Runner(tmp_path, environment, inputs(embedded_service, "glue/colla", tmp_path))
    done = run(*runner.step(0))
    assert done.returncode == 1
    assert "did you mean 'glue/cola'" in done.stderr


def test_the_last_step_cancels_what_a_killed_script_left(
    environment: dict[str, str], tmp_path: Path, embedded_service: Running
) -> None:
    runner = Runner(
        tmp_path, environment, inputs(embedded_service, "glue/rte", tmp_path, training=LONG)
    )
    assert runner.action["runs"]["steps"][1]["if"] == "cancelled()"
    assert run(*runner.step(1)).returncode == 0, "nothing was started yet"
    words, variables = runner.step(0)
    with training(embedded_service, words, variables) as (script, job):
        kill(script)
    assert run(*runner.step(1)).returncode == 0
    client = embedded_service.client
    assert client.wait(client.job(job))["status"] == "cancelled"


def test_the_workflow_gives_what_the_action_takes() -> None:
    action, workflow = (yaml.safe_load(path.read_text()) for path in (ACTION, WORKFLOW))
    (step,) = [
        step
        for step in workflow["jobs"]["train"]["steps"]
        if "with" in step and "url" in step["with"]
    ]
    required = {name for name, spec in action["inputs"].items() if spec.get("required")}
    assert required <= set(step["with"]) <= set(action["inputs"])
    words = ["-m", "yamllint", "--strict", "-d", YAMLLINT, str(ACTION), str(WORKFLOW)]
    subprocess.run([sys.executable, *words], check=True)
