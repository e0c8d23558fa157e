"""The `surgeon` command against a running service."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForSequenceClassification
from typer.testing import CliRunner, Result

from surgeon.cli import app
from surgeon.commands.failures import ExitCode
from surgeon.terminal import terminal
from tests.support.models.mirror import TINY
from tests.support.service.services import Running, wait_until


def surgeon(service: Running, *arguments: object) -> Result:
    command = [*map(str, arguments), "--url", service.client.url]
    return CliRunner().invoke(app, command, env={"COLUMNS": "100"})


@pytest.fixture
def csv(tmp_path: Path) -> Path:
    path = tmp_path / "train.csv"
    rows = [f"a {'fine' if i % 2 else 'poor'} sentence {i},{i % 2}" for i in range(40)]
    path.write_text("text,label\n" + "\n".join(rows) + "\n")
    return path


def test_rank_tune_watch_and_download(embedded_service: Running, csv: Path, tmp_path: Path) -> None:
    ranked = surgeon(embedded_service, "rank", TINY, csv, "--samples", 16)
    assert ranked.exit_code == 0, ranked.output
    assert "encoder.layer." in ranked.output
    assert "recommended k" in ranked.output
    assert "uploaded train.csv as ds_" in ranked.output

    tuned = surgeon(
        embedded_service, "tune", TINY, csv, "--top-k", 1, "--epochs", 1, "--json",
        "--head-fit", "epochs",
    )  # fmt: skip
    assert tuned.exit_code == 0, tuned.output
    job = json.loads(tuned.stdout)
    assert job["spec"]["training"]["head"]["fit"] == job["result"]["head"]["fit"] == "epochs"
    assert job["status"] == "succeeded"
    assert len(job["result"]["trained_layers"]) == 1

    assert job["id"] in surgeon(embedded_service, "jobs").output
    watched = surgeon(embedded_service, "watch", job["id"])
    assert watched.exit_code == 0
    assert job["result"]["best_checkpoint"] in watched.output

    folder = tmp_path / "checkpoint"
    got = surgeon(embedded_service, "download", job["id"], folder, "--form", "full")
    assert got.exit_code == 0, got.output
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    assert model.config.num_labels == 2


def test_logs_workers_and_the_queue(embedded_service: Running, csv: Path) -> None:
    ranked = surgeon(
        embedded_service, "rank", TINY, csv, "--samples", 16, "--fresh", "--json",
        "--head-fit", "epochs",
    )  # fmt: skip
    job = json.loads(ranked.stdout)
    assert job["spec"]["head"]["fit"] == job["result"]["head"]["fit"] == "epochs"
    followed = surgeon(embedded_service, "logs", job["id"], "--follow")
    assert followed.exit_code == 0, followed.output
    assert " job        " in followed.output
    assert "the job succeeded" in followed.output
    lines = surgeon(embedded_service, "logs", job["id"], "--attempt", 1, "--json").stdout
    assert {json.loads(line)["source"] for line in lines.splitlines()} == {
        "supervisor", "fetcher", "job",
    }  # fmt: skip
    told = surgeon(embedded_service, "logs", job["id"], "--attempt", 2)
    assert (told.exit_code, "no attempt 2" in told.output) == (1, True)
    assert job["usage"]["worker_seconds"]["cpu"] > 0
    assert job["usage"]["peak_memory_bytes"]["host"] > 1 << 20

    (worker,) = json.loads(surgeon(embedded_service, "workers", "--json").stdout)
    assert worker["alive"]
    assert worker["id"] in surgeon(embedded_service, "workers").output
    queue = surgeon(embedded_service, "queue").output
    assert "finetune" in queue
    assert "0 (0)" in queue


@pytest.mark.parametrize(
    ("options", "shown"),
    [
        ((), ("95 % interval", "P(top 2)", "embeddings", "shuffled labels", "shuffled tokens")),
        (("--no-prior", "--head-seeds", 2), ("± heads", "2 heads", "τ between two of them")),
        (("--no-prior", "--adaptive", "--samples", 40), ("adaptive", "32 samples: the top")),
        (
            ("--no-prior", "--minus", "shuffled"),
            ("minus", "the part of the total on shuffled labels, in standard errors"),
        ),
        (
            ("--no-prior", "--method", "all"),
            ("layers, best first", "Kendall τ between methods", "10 random"),
        ),
        (
            ("--no-prior", "--granularity", "tensor", "--aggregate", "mean"),
            ("tensor of encoder.layer.*", "3.attention.output.LayerNorm.weight"),
        ),
        (
            ("--no-prior", "--granularity", "sublayer", "--aggregate", "frobenius"),
            ("unbiased", "0.feed_forward"),
        ),
        (
            ("--no-prior", "--fisher", "sampled", "--draws", 2, "--precision", "bf16"),
            ("sampled labels", "bf16"),
        ),
        (("--method", "last"), ("last, no row read", "half of the layers")),
        (("--method", "paper_compat"), ("paper_compat, ", "warning", "validation rows")),
    ],
    ids=str,
)
def test_rank_shows_what_was_asked_for_in_80_columns(
    options: tuple[object, ...], shown: tuple[str, ...], embedded_service: Running, csv: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(terminal.console, "width", 80)
    rows = () if {"--samples", "paper_compat"} & {*options} else ("--samples", 16)
    done = surgeon(embedded_service, "rank", TINY, csv, *rows, *options)
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert all(len(line) <= 80 for line in lines), done.stdout
    assert "…" not in done.stdout
    text = " ".join(done.stdout.split())
    assert all(words in text for words in shown), done.stdout
    assert "recommended k" in text
    places = [line.split()[0] for line in lines if "layer" in line and line.split()[0].isdigit()]
    assert places == [str(place + 1) for place in range(len(places))]


def test_upload_says_what_it_took_the_columns_for(
    embedded_service: Running, tmp_path: Path
) -> None:
    path = tmp_path / "mine.csv"
    path.write_text("one,two,kind\n" + "".join(f"a {i},b {i},{i % 2}\n" for i in range(20)))
    options = ("--columns", "text=two,label=kind", "--labels", "no,yes", "--split-seed", 3)
    done = surgeon(embedded_service, "upload", path, *options, "--name", "mine")
    assert done.exit_code == 0, done.output
    stored = embedded_service.client.call("GET", f"/v1/datasets/{done.stdout.strip()}")
    assert (stored["labels"], stored["columns"]["text"]) == (["no", "yes"], "two")
    assert (stored["name"], stored["inferred"]) == ("mine", ["problem", "validation"])
    told = " ".join(done.stderr.split())
    assert "classification of text two, label kind; inferred: problem, validation" in told
    equal = surgeon(embedded_service, "upload", path, *options, "--name", "other")
    assert "note: " in equal.stderr, "it keeps the name that it has"
    again = surgeon(embedded_service, "upload", path, *options[:-1], 4, "--json")
    assert json.loads(again.stdout)["id"] != stored["id"], "another tenth is set aside"


def test_upload_divides_labels_where_it_is_told_to(
    embedded_service: Running, tmp_path: Path
) -> None:
    path = tmp_path / "tags.csv"
    path.write_text(
        "text,tags\n" + "".join(f"a {i},{'a|b' if i % 2 else 'b'}\n" for i in range(20))
    )
    columns = ("--columns", "text=text,label=tags")
    done = surgeon(embedded_service, "upload", path, *columns, "--label-separator", "|")
    assert done.exit_code == 0, done.output
    stored = embedded_service.client.call("GET", f"/v1/datasets/{done.stdout.strip()}")
    assert (stored["problem"], stored["labels"]) == ("multi_label", ["a", "b"])
    assert "warning: labels of every row of train" in " ".join(done.stderr.split())
    refused = surgeon(embedded_service, "upload", path, *columns, "--problem", "multi_label")
    assert refused.exit_code == 1
    assert '--label-separator "|"' in " ".join(refused.output.split())


def test_tune_tracks_the_ranking(embedded_service: Running, csv: Path) -> None:
    options = ("--last-k", 1, "--epochs", 2, "--track-ranking")
    done = surgeon(embedded_service, "tune", TINY, csv, *options)
    assert done.exit_code == 0, done.output
    assert "τ to start" in done.stdout
    assert "ranking at the start: encoder.layer." in " ".join(done.stdout.split())


def test_tune_takes_every_selection(embedded_service: Running, csv: Path) -> None:
    for options, policy, count in (
        (("--top-share", 0.01, "--granularity", "tensor"), "top_share", 1),
        (("--max-parameters", 600, "--granularity", "sublayer"), "max_parameters", None),
        (("--layers", "0,encoder.layer.2", "--include", "pooler"), "layers", 2),
    ):
        done = surgeon(embedded_service, "tune", TINY, csv, "--epochs", 1, "--json", *options)
        assert done.exit_code in {0, 1}, done.output
        if policy == "max_parameters":  # the smallest sublayer holds more
            assert "no sublayer fits into 600 parameters" in " ".join(done.output.split())
            continue
        job = json.loads(done.stdout)
        assert job["spec"]["selection"]["policy"] == policy
        assert len(job["result"]["trained_layers"]) == count


@pytest.mark.slow
def test_compare_shows_the_arms_and_the_scores_in_80_columns(
    embedded_service: Running, csv: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(terminal.console, "width", 80)
    arms = ("--arm", "all", "--arm", "lora=2", "--arm", "head_only", "--single-layers")
    short = ("--seeds", "0", "--epochs", 1, "--max-length", 16, "--learning-rates", "1e-4,1e-3")
    done = surgeon(embedded_service, "compare", TINY, csv, *arms, *short)
    assert done.exit_code == 0, done.output
    assert all(len(line) <= 80 for line in done.stdout.splitlines()), done.stdout
    text = " ".join(done.stdout.split())
    words = ("to all", "rate", "lora-2", "layer-3", "Spearman", "tangent", "standard error")
    assert "trained at one learning rate" not in text
    assert all(word in text for word in words), done.stdout
    (job, *_) = embedded_service.client.call("GET", "/v1/comparisons")["data"]
    decided(embedded_service, embedded_service.client.job(job["id"]), text, tmp_path)


def decided(service: Running, job: dict[str, Any], told: str, folder: Path) -> None:
    """The decision is told, and `download` takes its checkpoint, or that of a named arm."""
    decision = job["result"]["decision"]
    assert " ".join(decision["summary"].split()) in told
    done = surgeon(service, "download", job["id"], folder / "best")
    assert done.exit_code == (0 if decision["checkpoint"] else 1), done.output
    done = surgeon(service, "download", job["id"], folder / "arm", "--arm", "lora-2")
    assert done.exit_code == 0, done.output
    assert (folder / "arm" / "adapter_model.safetensors").exists()
    done = surgeon(service, "download", job["id"], folder / "no", "--arm", "lora-3")
    assert done.exit_code == 1
    assert "no arm 'lora-3'; its arms are all, lora-2," in " ".join(done.output.split())
    run = job["result"]["arms"][0]["runs"][0]["job"]
    done = surgeon(service, "download", run, folder / "no", "--arm", "all")
    assert "has no arms" in " ".join(done.output.split())


def test_failures_are_a_message_and_a_non_zero_exit(embedded_service: Running, csv: Path) -> None:
    for arguments, code, words in (
        (("rank", "no/such", csv), 1, "at MODEL"),
        (("tune", TINY, csv, "--top-k", 9), 1, "4 layers"),
        (("rank", TINY, csv, "--draws", 3), 1, "--draws: draws goes with fisher sampled"),
        (("rank", TINY, csv, "--precision", "int8"), 2, "bf16"),
        (("upload", csv, "--columns", "text=txt"), 1, "--columns text=…, train.csv, column txt"),
        (("upload", csv, "--columns", "txet=text"), 1, "--columns txet=…: unknown field; did"),
        (("upload", csv, "--problem", "multiple_choice"), 1, "--columns choices=…"),
        (("upload", csv, "--labels", "one,one"), 1, "two of the labels are equal"),
        (("upload", csv, "--columns", "text"), 2, "is not part=column"),
        (("upload", "v.csv"), 2, "v.csv"),
        (("upload", csv, "--validation", "v.csv"), 2, "no file v.csv"),
        (("rank", TINY, "glue/rte", "--problem", "regression"), 2, "go with a file"),
        (("rank", TINY, "trian.csv"), 2, "there is no file trian.csv"),
        (
            ("rank", TINY, '{"hub": "me/no", "columns": {}}'),
            1,
            "--columns text=… and --columns label=…",
        ),
        (("tune", TINY, csv), 2, "exactly one of"),
        (("compare", TINY, csv, "--arm", "best_k=2"), 2, "none of"),
        (("compare", TINY, csv, "--arm", "top_k"), 2, "top_k=…"),
        (("compare", TINY, csv, "--arm", "top_k=two"), 2, "no whole number"),
        (("compare", TINY, csv, "--arm", "last_k=9"), 1, "--arm: arm 'last_k-9'"),
        (("compare", TINY, csv), 1, "--arm: "),
        (("tune", TINY, csv, "--all", "--top-k", 1), 2, "exactly one of"),
        (("watch", "ft_nope"), 1, "no job"),
        (("download", "ck_nope", "x"), 1, "no checkpoint"),
    ):
        done = surgeon(embedded_service, *arguments)
        assert done.exit_code == code, done.output
        assert words in " ".join(done.output.split())


def test_a_cancelled_job_has_an_exit_code_of_its_own(embedded_service: Running, csv: Path) -> None:
    body = {
        "model": TINY, "dataset": "glue/rte", "selection": {"policy": "all"},
        "training": {"epochs": 50, "max_length": 16},
    }  # fmt: skip
    job = embedded_service.client.submit("finetunes", body)
    assert surgeon(embedded_service, "cancel", job["id"]).exit_code == 0
    watched = surgeon(embedded_service, "watch", job["id"])
    assert watched.exit_code == ExitCode.CANCELLED
    assert "cancelled" in watched.output
    assert f"{job['id']}: cancelled" in watched.stderr, "there is no terminal: lines"


TRAINING = {"epochs": 2, "max_length": 16, "batch_size": 64}


def test_another_than_the_best_checkpoint_is_never_fetched_for_it(
    embedded_service: Running, tmp_path: Path
) -> None:
    client = embedded_service.client
    body = {
        "model": TINY, "dataset": "glue/rte", "selection": {"policy": "last_k", "k": 1},
        "training": TRAINING, "checkpoints": {"keep": "all"},
    }  # fmt: skip
    job = embedded_service.run("finetunes", body)
    best = job["result"]["best_checkpoint"]
    (other,) = {each["id"] for each in client.checkpoints(job["id"])} - {best}
    client.call("DELETE", f"/v1/checkpoints/{best}")
    folder = tmp_path / "best"
    done = surgeon(embedded_service, "download", job["id"], folder)
    assert done.exit_code == 1
    assert "best checkpoint" in done.output
    assert f"surgeon download {other}" in done.output
    assert not folder.exists()
    assert surgeon(embedded_service, "download", other, folder).exit_code == 0
    client.call("DELETE", f"/v1/checkpoints/{other}")
    done = surgeon(embedded_service, "download", job["id"], tmp_path / "none")
    assert done.exit_code == 1
    assert "no checkpoint of it is left" in " ".join(done.output.split())


def test_a_download_of_a_comparison_lists_its_runs(
    embedded_service: Running, tmp_path: Path
) -> None:
    arms = [
        {"name": "two", "selection": {"policy": "last_k", "k": 2}},
        {"name": "one", "selection": {"policy": "last_k", "k": 1}},
    ]
    body = {"model": TINY, "dataset": "glue/rte", "training": TRAINING, "arms": arms, "seeds": [3]}
    job = embedded_service.client.submit("comparisons", body)
    done = surgeon(embedded_service, "download", job["id"], tmp_path)
    surgeon(embedded_service, "cancel", job["id"])
    children = embedded_service.client.call("GET", job["links"]["children"])["data"]
    assert done.exit_code == 1
    told = " ".join(done.output.split())
    assert "has no result to decide by; its runs are" in told
    for child in children:
        assert f"surgeon download {child['id']} DIR # {child['resolved']['arm']}, seed 3" in told
    assert told.index("# one") < told.index("# two")


def test_a_download_of_a_ranking_is_refused(embedded_service: Running, tmp_path: Path) -> None:
    body = {"model": TINY, "dataset": "glue/rte", "method": "weight_snr"}
    job = embedded_service.client.submit("rankings", body)
    done = surgeon(embedded_service, "download", job["id"], tmp_path)
    assert done.exit_code == 1
    assert "is a ranking, which leaves no checkpoint" in " ".join(done.output.split())
    embedded_service.finished(job)


def test_no_service_is_said_plainly() -> None:
    done = CliRunner().invoke(app, ["jobs", "--url", "http://127.0.0.1:9"])
    assert done.exit_code == ExitCode.UNREACHABLE
    assert "surgeon serve" in done.output


def test_the_life_of_a_job(embedded_service: Running, csv: Path) -> None:
    client = embedded_service.client
    uploaded = client.upload(csv).id
    long = {
        "model": TINY, "dataset": uploaded, "selection": {"policy": "head_only"},
        "training": {"epochs": 100},
    }  # fmt: skip
    before = client.submit("finetunes", long)["id"]  # what comes after it stays queued
    wait_until(lambda: client.job(before)["status"] == "running", 60, embedded_service.logs)
    job = client.submit("rankings", {"model": TINY, "dataset": uploaded, "seed": 7})["id"]
    assert surgeon(embedded_service, "pause", job).exit_code == 0
    wait_until(lambda: client.job(job)["status"] == "paused", 60, embedded_service.logs)
    changed = surgeon(
        embedded_service, "set", job, "--name", "mine", "--metadata", "a=b", "--priority", 3
    )
    assert f"{job}: mine, a=b, priority 3" in changed.output
    surgeon(embedded_service, "set", job, "--metadata", "a")
    assert client.job(job)["metadata"] == {}
    assert f"{job} is cancelled" in surgeon(embedded_service, "cancel", job).output
    client.call("POST", f"/v1/jobs/{before}/cancel")
    watched = surgeon(embedded_service, "watch", job)
    assert watched.exit_code == ExitCode.CANCELLED
    assert "cancelled on request" in watched.output
    refused = surgeon(embedded_service, "resume", job)
    assert refused.exit_code == 1
    assert "possible now: retry, delete" in " ".join(refused.output.split())
    again = surgeon(embedded_service, "retry", job, "--json")
    assert again.exit_code == 0, again.output
    new = json.loads(again.stdout)
    assert (new["retry_of"], new["name"], new["status"]) == (job, "mine", "succeeded")
    assert f"{job} is deleted" in surgeon(embedded_service, "delete", job).output
    assert surgeon(embedded_service, "watch", job).exit_code == 1
