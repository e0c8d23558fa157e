"""`python -m surgery` on local files."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification

from surgery.__main__ import main
from surgery.checkpoints.merge import RECORD
from tests.support.models.mirror import TINY
from tests.support.rows.nli import put_nli

Done = subprocess.CompletedProcess[str]
Here = Callable[..., Done]


@pytest.fixture(scope="module")
def csv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("rows") / "train.csv"
    rows = [
        f"the {'good' if i % 2 else 'bad'} film number {i},{'pos' if i % 2 else 'neg'}"
        for i in range(60)
    ]
    path.write_text("text,label\n" + "\n".join(rows) + "\n")
    return path


def run(*arguments: object, launcher: tuple[str, ...] = ()) -> Done:
    command = [sys.executable, *launcher, "-m", "surgery", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Here:
    """The command in this process, which need not import torch anew."""

    def run_here(*arguments: object) -> Done:
        command = ["surgery", *map(str, arguments)]
        monkeypatch.setattr(sys, "argv", command)
        capsys.readouterr()
        return subprocess.CompletedProcess(command, main(), *capsys.readouterr())

    return run_here


@pytest.fixture(scope="module")
def ranking(mirror: Path, csv: Path) -> tuple[object, ...]:
    """The arguments of a small ranking."""
    return ("rank", mirror / "models" / TINY, csv, "--samples", 20, "--max-length", 16)


@pytest.fixture(scope="module")
def ranked(ranking: tuple[object, ...]) -> Done:
    """What a process by itself says of it."""
    done = run(*ranking)
    assert done.returncode == 0, done.stderr
    return done


def test_rank_prints_the_ranking_as_json(ranked: Done) -> None:
    result = json.loads(ranked.stdout)
    assert sorted(layer["index"] for layer in result["layers"]) == [0, 1, 2, 3]
    assert result["samples"] == 20
    assert "score" in ranked.stderr.split()


def test_rank_takes_every_option(mirror: Path, csv: Path, here: Here) -> None:
    small = ("--samples", 20, "--max-length", 16)
    for options, expected in (
        (("--granularity", "sublayer", "--aggregate", "mean", "--fisher", "sampled", "--draws", 2,
          "--precision", "bf16", "--head-seeds", 2, "--no-prior"),
         {"granularity": "sublayer", "aggregate": "mean", "fisher": "sampled", "precision": "bf16",
          "head": ["new", "lbfgs"], "model_prior": None}),
        (("--method", "snip"), {"method": "snip", "aggregate": None, "model_prior": None}),
    ):  # fmt: skip
        done = here("rank", mirror / "models" / TINY, csv, *small, *options)
        assert done.returncode == 0, done.stderr
        result = json.loads(done.stdout)
        head = result["head"]
        result["head"] = [head["source"], head["fit"]]
        assert {name: result[name] for name in expected} == expected


@pytest.mark.slow  # tests/surgery/ranking/test_parallel.py says the same of the library
def test_rank_shares_the_samples_among_processes(
    ranking: tuple[object, ...], ranked: Done, tmp_path: Path
) -> None:
    """One of them prints, and what it prints is what one process alone finds."""
    alone = json.loads(ranked.stdout)
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    together = run(*ranking, launcher=launcher)
    assert together.returncode == 0, together.stderr
    result = json.loads(together.stdout)
    assert (alone["processes"], result["processes"]) == (1, 2)
    for one, two in zip(alone["layers"], result["layers"], strict=True):
        assert two["name"] == one["name"]
        assert two["score"] == pytest.approx(one["score"], rel=1e-5)
    assert result["samples"] == alone["samples"]
    assert together.stderr.split().count("score") == 1

    _, model, rows, *_ = ranking
    tuned = run("tune", model, rows, tmp_path / "out", "--last-k", 1, launcher=launcher)
    assert tuned.returncode != 0
    assert tuned.stderr.count("tune runs in one process") == 1


def test_tune_writes_a_folder_transformers_loads(
    mirror: Path, csv: Path, tmp_path: Path, here: Here
) -> None:
    out = tmp_path / "out"
    base = mirror / "models" / TINY
    done = here(
        "tune", base, csv, out, "--top-k", 1, "--samples", 20, "--epochs", 1, "--learning-rate", 1e-3,
        "--method", "tangent", "--track-ranking",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert sorted(result["epochs"][0]["ranking"]["scores"]) == sorted(result["ranking_at_start"])
    (folder,) = out.glob("checkpoint-*")
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    assert model.config.label2id == {"neg": 0, "pos": 1}
    before, after = load_file(base / "model.safetensors"), model.bert.state_dict()
    trained = result["trained_layers"][0]
    changed = {name for name, tensor in before.items() if not tensor.equal(after[name])}
    assert changed
    assert all(name.startswith(f"{trained}.") for name in changed)


@pytest.mark.slow
def test_tune_takes_every_selection(mirror: Path, csv: Path, tmp_path: Path, here: Here) -> None:
    small = ("--samples", 8, "--epochs", 1, "--max-length", 16, "--form", "delta")
    for options, count in (
        (("--max-parameters", 40, "--granularity", "tensor"), 2),
        (("--bottom-k", 1, "--granularity", "sublayer", "--include", "pooler"), 1),
        (("--layers", "0,encoder.layer.2"), 2),
        (("--head-only",), 0),
    ):
        out = tmp_path / str(options[0])
        done = here("tune", mirror / "models" / TINY, csv, out, *small, *options)
        assert done.returncode == 0, done.stderr
        (folder,) = out.glob("checkpoint-*")
        record = json.loads((folder / RECORD).read_text())
        assert len(record["layers"]) == count
        assert record["included"] == (["pooler"] if "--include" in options else [])
    for options, words in (
        (("--max-parameters", 1), "at least 2,"),
        (("--top-k", 1, "--granularity", "tensor", "--method", "tangent"), "scores whole layers"),
    ):
        done = here("tune", mirror / "models" / TINY, csv, tmp_path / "no", *small, *options)
        assert done.returncode == 1
        assert words in done.stderr


def test_tune_says_in_options_what_cannot_be(
    mirror: Path, csv: Path, tmp_path: Path, here: Here
) -> None:
    for options, words in (
        (("--top-k", 1, "--all"), "exactly one of"),
        (("--top-k", 0), "--top-k: "),
        (("--last-k", 9), "--last-k: at most 4; pass a smaller number, or 4 for all of its layers"),
        (("--last-k", 9), "  try: --last-k 4\n"),
        (("--last-k", 1, "--lisa-layers", 2, "--lisa-interval", 3), "--lisa-layers: "),
        (("--layers", "0,7"), "--layers: no layer 7"),
        (("--all", "--epochs", 0), "--epochs: Input should be"),
        (("--layers", "0", "--granularity", "tensor"), "finer parts have names only"),
    ):
        done = here("tune", mirror / "models" / TINY, csv, tmp_path / "no", *options)
        assert done.returncode == 1
        assert words in done.stderr


def test_search_prints_what_it_found_as_json(mirror: Path, csv: Path, here: Here) -> None:
    model, few = mirror / "models" / TINY, ("--epochs", 1, "--max-length", 16, "--seed", 3)
    asked = ("--families", "single,all", "--learning-rates", "0.001", "--held-out", 0.3)
    done = here("search", model, csv, *asked, *few)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert {arm["family"] for arm in result["arms"]} == {"single", "all"}
    assert result["learning_rate"] == 0.001
    assert (result["train_rows"], result["held_out_rows"]) == (38, 16)
    wrong = here("search", model, csv, "--families", "singles", *few)
    assert wrong.returncode == 1
    assert "--families: " in wrong.stderr


@pytest.mark.slow
def test_tune_takes_a_layer_schedule_and_several_rates(
    mirror: Path, csv: Path, tmp_path: Path, here: Here
) -> None:
    small = ("--epochs", 2, "--batch-size", 8, "--max-length", 16)
    tune = ("tune", mirror / "models" / TINY, csv)
    gradual = ("--last-k", 2, "--learning-rates", "1e-4,3e-3", "--unfreeze-every-epochs", 1)
    done = here(*tune, tmp_path / "gradual", *small, *gradual)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert [trial["learning_rate"] for trial in result["learning_rates"]] == [1e-4, 3e-3]
    assert result["learning_rate"] in {1e-4, 3e-3}
    assert [stage["layers"] for stage in result["prefix"]["stages"]] == [3, 2]
    lisa = ("--all", "--lisa-layers", 1, "--lisa-interval", 3)
    done = here(*tune, tmp_path / "lisa", *small, *lisa)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["active_parameters"] < result["trainable_parameters"]
    done = here(
        *tune, tmp_path / "no", *small, "--last-k", 1, "--lisa-layers", 2, "--lisa-interval", 3
    )
    assert done.returncode == 1
    assert "--lisa-layers: " in done.stderr
    done = here(*tune, tmp_path / "no", *small, "--all", "--learning-rates", "1e-4,x")
    assert (done.returncode, done.stderr.count("'x' is no number")) == (1, 1)


def test_tune_searches_for_layers_and_their_rate(
    mirror: Path, csv: Path, tmp_path: Path, here: Here
) -> None:
    model, few = mirror / "models" / TINY, ("--epochs", 1, "--max-length", 16)
    done = here("tune", model, csv, tmp_path / "out", "--search", *few)
    assert done.returncode == 0, done.stderr
    assert "search\n" in done.stderr
    result = json.loads(done.stdout)
    assert result["trained_layers"]
    assert result["learning_rate"] in {1e-4, 3e-4, 1e-3}
    wrong = here("tune", model, csv, tmp_path / "no", "--search", "--learning-rate", 0.1)
    assert wrong.returncode == 1
    assert "--learning-rate means nothing to policy search" in wrong.stderr
    assert "search\n" not in wrong.stderr  # said before anything is computed


def test_tune_measures_on_other_presets(
    mirror: Path, tmp_path: Path, here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_nli(tmp_path / "mirror")
    monkeypatch.setenv("SURGEON_MIRROR_DIR", str(tmp_path / "mirror"))
    monkeypatch.setenv("SURGEON_OFFLINE", "1")
    small = ("--last-k", 1, "--epochs", 1, "--max-length", 48, "--form", "delta")
    base = mirror / "models" / TINY
    done = here(
        "tune", base, "super_glue/rte", tmp_path / "out", *small,
        "--also-evaluate", "super_glue/axb", "super_glue/axg",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    [entry] = json.loads(done.stdout)["epochs"]
    assert {name: list(values) for name, values in entry["also"].items()} == {
        "super_glue/axb": ["matthews_correlation"],
        "super_glue/axg": ["accuracy", "gender_parity"],
    }
    assert "super_glue/axg:gender_parity" in done.stderr


def test_the_dataset_is_described_by_options(mirror: Path, tmp_path: Path, here: Here) -> None:
    """Nothing here could be inferred; what is tokenised is kept for the next run."""
    train, held_out, cache = tmp_path / "t.csv", tmp_path / "v.csv", tmp_path / "cache"
    for path, count in ((train, 20), (held_out, 6)):
        rows = [f"word {i},other {i},{i % 2}" for i in range(count)]
        path.write_text("one,two,kind\n" + "\n".join(rows) + "\n")
    arguments = (
        "tune", mirror / "models" / TINY, train, tmp_path / "out", "--last-k", 1, "--epochs", 1,
        "--max-length", 16, "--validation", held_out, "--columns", "text=two,label=kind",
        "--problem", "classification", "--labels", "no,yes", "--cache", cache,
    )  # fmt: skip
    assert here(*arguments).returncode == 0
    (folder,) = (tmp_path / "out").glob("checkpoint-*")
    config = json.loads((folder / "config.json").read_text())
    assert config["label2id"] == {"no": 0, "yes": 1}
    kept = {path: path.stat().st_mtime_ns for path in (cache / "tokens").glob("*/ids.npy")}
    assert len(kept) == 2
    assert here(*arguments[:3], tmp_path / "again", *arguments[4:]).returncode == 0
    assert {path: path.stat().st_mtime_ns for path in kept} == kept


def test_a_wrong_input_is_a_message_and_exit_code_one(
    mirror: Path, csv: Path, tmp_path: Path, here: Here
) -> None:
    bad = tmp_path / "bad.csv"
    bad.write_text("text,kind\na,1\nb,2\n,1\n")
    rank = ("rank", mirror / "models" / TINY)
    for arguments, words in (
        ((*rank, bad), "--columns label=…"),
        ((*rank, bad, "--columns", "label=kin"), "at --columns label=…, bad.csv, column kin"),
        ((*rank, bad, "--columns", "label=kind"), "at bad.csv, row 3, column text"),
        ((*rank, bad, "--columns", "txet=kind"), "unknown field; did you mean '--columns text=…'"),
        ((*rank, bad, "--columns", "kind"), "--columns: 'kind' is not part=column"),
        ((*rank, csv, "--labels", "pos"), "--labels: "),
        ((*rank, csv.with_name("v.csv")), "there is no file"),
        ((*rank, "glue/cola", "--problem", "regression"), "go with a file"),
        ((*rank, '{"hub": "me/own", "columns": {}}'), "must both be named"),
        ((*rank, csv, "--validation", "v.csv"), "there is no file v.csv"),
        ((*rank, csv, "--cache", csv / "x"), "--cache: "),
        (("rank", tmp_path, csv), "config.json"),
        ((*rank, csv, "--samples", 0), "--samples: Input should be greater than or equal to 2"),
    ):
        done = here(*arguments)
        assert (done.returncode, words in done.stderr) == (1, True), done.stderr
