"""Trackers: what they are told, what they keep, and what one that fails costs."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from surgery.io.folders import is_intact
from surgery.io.reporter import Quiet, Stopped
from surgery.models.trainable import layers_of_model
from surgery.schemas.jobs.finetune import FinetuneResult, FinetuneSpec
from surgery.training.loop import finetune
from surgery.training.state import saved_step
from surgery.training.tracking import trackers
from surgery.training.tracking.services import TrackerService, TrackerServices
from surgery.training.tracking.trackers import tracking
from tests.support.models.toys import toy_data, toy_model
from tests.support.outside.event_files import curves

SPEC = FinetuneSpec.model_validate(
    {
        "model": "toy", "dataset": "toy", "selection": {"policy": "all"},
        "training": {"epochs": 2, "batch_size": 2, "learning_rate": 1e-3},
    }
)  # fmt: skip


class Noting(Quiet):
    """Notes every number it is told; asks to stop at a step."""

    def __init__(self, out: Path, stop_at: int | None = None) -> None:
        super().__init__(out)
        self.told: dict[str, dict[int, float]] = {}
        self.logs: list[Path] = []
        self.saved: Path | None = None
        self._stop_at = stop_at

    def step(self, done: int, total: int | None, unit: str) -> None:  # noqa: ARG002
        if unit == "steps" and done == self._stop_at:
            raise Stopped(resumable=True)

    def metric(self, step: int, epoch: float, values: Mapping[str, float | None]) -> None:  # noqa: ARG002
        for name, value in values.items():
            if value is not None:
                self.told.setdefault(name, {})[step] = value

    def state(self, directory: Path, step: int) -> None:  # noqa: ARG002
        self.saved = directory


def tune(report: Noting, resume: Path | None = None) -> FinetuneResult:
    loaded = toy_model("bert")
    step = saved_step(resume) if resume else None
    with tracking(report, "ft_1", SPEC, resumed_at=step, keep=report.logs.append) as reporter:
        result = finetune(loaded, toy_data(), SPEC, layers_of_model(loaded)[1:], reporter, resume)
    assert reporter.warnings == []
    return result


def same(found: Mapping[str, Mapping[int, float]], told: Mapping[str, Mapping[int, float]]) -> None:
    assert found.keys() == told.keys()
    for name, values in told.items():
        assert found[name] == pytest.approx(values, rel=1e-6)  # TensorBoard keeps float32


def test_tensorboard_reads_back_what_the_run_measured(tmp_path: Path) -> None:
    report = Noting(tmp_path)
    tune(report)
    assert {"train_loss", "learning_rate", "validation_accuracy"} <= report.told.keys()
    assert len(report.told["train_loss"]) == 4
    same(curves(tmp_path / "tensorboard" / "ft_1"), report.told)
    assert all(map(is_intact, report.logs))
    same(curves(report.logs[-1]), report.told)


def test_a_run_that_goes_on_continues_its_log(tmp_path: Path) -> None:
    whole, first, second = (Noting(tmp_path / name) for name in ("whole", "first", "second"))
    tune(whole)
    first = Noting(tmp_path / "first", stop_at=15)
    with pytest.raises(Stopped):
        tune(first)
    assert first.saved is not None
    # Measured after the state was saved: lost with the attempt, and to be dropped by the reader.
    lost = trackers.start("ft_1", {}, tmp_path / "lost", resumed_at=15)
    lost.log({"train_loss": 99.0}, 20)
    assert lost.finish() == []
    tune(second, first.saved)
    together = tmp_path / "together"
    together.mkdir()
    folders = (first.logs[-1], tmp_path / "lost" / "ft_1", second.logs[-1])
    for place, folder in enumerate(folders):  # a reader takes them by name, which has the second
        for file in folder.glob("events.*"):
            (together / f"events.out.tfevents.{place}.{file.name}").write_bytes(file.read_bytes())
    same(curves(together), whole.told)


class Fake:
    """A run at a service that answers as its test wants."""

    def __init__(self, answer: Any = None) -> None:
        self.values: list[tuple[Any, Any]] = []
        self.config: dict[str, Any] = {}
        self.threads: set[int] = set()
        self._answer = answer

    def begin(self, config: Mapping[str, Any]) -> None:
        self.config = dict(config)

    def log(self, values: dict[str, float], step: int) -> None:
        if self._answer:
            self._answer()
        self.threads.add(threading.get_ident())
        self.values.append((step, values))

    def end(self) -> None:
        """Nothing is left to send."""


def fail() -> None:
    raise RuntimeError("http://user:secret@host refused")


def started(tmp_path: Path, fake: Fake) -> trackers.Trackers:
    files = trackers.start("run", {}, tmp_path, environment={}).files
    return trackers.Trackers(
        files, TrackerServices([TrackerService("fake", lambda: fake, {"a": 1})])
    )


def test_a_service_is_told_everything_in_order(tmp_path: Path) -> None:
    fake = Fake()
    running = started(tmp_path, fake)
    for step in range(5):
        running.log({"loss": step / 2, "undefined": None}, step)
    assert running.finish() == []
    assert fake.values == [(step, {"loss": step / 2}) for step in range(5)]
    assert fake.config == {"a": 1}
    assert threading.get_ident() not in fake.threads


def test_a_service_that_fails_is_a_warning_without_its_words(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    running = started(tmp_path, Fake(fail))
    for step in range(5):
        running.log({"loss": 1.0}, step)
    (warning,) = running.finish()
    assert warning.message == "fake failed with RuntimeError; the run has its metrics all the same"
    assert "secret" not in caplog.text


def test_a_client_that_is_not_installed_is_named(tmp_path: Path) -> None:
    def missing() -> None:
        raise ModuleNotFoundError("No module named 'fake'")

    running = started(tmp_path, Fake(missing))
    running.log({"loss": 1.0}, 1)
    (warning,) = running.finish()
    assert warning.message == (
        "fake is not installed on the worker: pip install layer-surgeon[fake]; "
        "the run has its metrics all the same"
    )


def test_a_service_that_does_not_answer_holds_nobody_up(tmp_path: Path) -> None:
    hanging = threading.Event()
    running = started(tmp_path, Fake(hanging.wait))
    began = time.monotonic()
    running.log({"loss": 1.0}, 1)
    (warning,) = running.finish(seconds=0.2)
    assert time.monotonic() - began < 5
    assert "did not take all metrics within 0.2 s" in warning.message
    hanging.set()


def test_a_full_disk_is_a_warning(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("in the way")
    running = trackers.start("run", {}, tmp_path, environment={})
    running.log({"loss": 1.0}, 1)
    (warning,) = running.finish()
    assert warning.message.startswith("tensorboard: its files are not complete")


SERVICES = """
import sys
import time
from pathlib import Path
from surgery.training.tracking import trackers
running = trackers.start("ft_7", {"training": {"epochs": 3}, "include": ["pooler"]}, Path(sys.argv[1]))
for step in (10, 20):
    running.log({"train_loss": step / 100}, step)
assert running.finish(120) == [], running
time.sleep(1.1)  # W&B names a run's folder by the second
resumed = trackers.start("ft_7", {"training": {"epochs": 3}}, Path(sys.argv[1]), resumed_at=20)
resumed.log({"train_loss": 0.3}, 30)
assert resumed.finish(120) == []
if "mlflow" in sys.argv:
    import mlflow
    (run,) = mlflow.search_runs(search_all_experiments=True, output_format="list")
    history = mlflow.MlflowClient().get_metric_history(run.info.run_id, "train_loss")
    assert [(m.step, m.value) for m in history] == [(10, 0.1), (20, 0.2), (30, 0.3)]
    assert (run.info.run_name, run.info.status) == ("ft_7", "FINISHED")
    assert run.data.params == {"training.epochs": "3", "include": '["pooler"]'}
"""


def run_services(tmp_path: Path, *given: str, **environment: str) -> None:
    """In a process of its own: their clients keep threads and settings."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW_", "WANDB_"))}
    command = [sys.executable, "-c", SERVICES, str(tmp_path / "tensorboard"), *given]
    subprocess.run(command, env=kept | environment, check=True, timeout=200, cwd=tmp_path)


def test_mlflow_has_the_run_and_goes_on_with_it(tmp_path: Path) -> None:
    run_services(
        tmp_path, "mlflow", MLFLOW_TRACKING_URI=(tmp_path / "mlruns").as_uri(),
        MLFLOW_ALLOW_FILE_STORE="true",
    )  # fmt: skip
    # Without an address there is none.
    assert not (tmp_path / "wandb").exists()


@pytest.mark.slow
def test_wandb_writes_its_log_offline(tmp_path: Path) -> None:
    run_services(tmp_path, WANDB_MODE="offline", WANDB_DIR=str(tmp_path))
    written = list(tmp_path.rglob("run-ft_7.wandb"))
    assert len(written) == 2  # one for each attempt, of one id: `wandb sync` joins them
    content = b"".join(path.read_bytes() for path in written)
    assert b"train_loss" in content
    assert not (tmp_path / "mlruns").exists()
