"""What the `surgeon` command makes of options that say nothing, or say it wrongly."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from app.settings import settings_from_environment
from surgeon.cli import app
from tests.support.models.mirror import TINY
from tests.support.service.services import Running

NOWHERE = "http://127.0.0.1:9"  # nothing listens: what is refused is refused before


def surgeon(*arguments: object, url: str = NOWHERE) -> Result:
    command = [*map(str, arguments), "--url", url]
    return CliRunner().invoke(app, command, env={"COLUMNS": "400"})


COMPARE = ("compare", "m", "glue/rte")
TUNE = ("tune", "m", "glue/rte")
LONG = "x" * 5000
MISUSED: dict[str, tuple[tuple[object, ...], str]] = {
    "share of letters": ((*COMPARE, "--arm", "top_share=abc"), "'top_share=abc': 'abc' is no number"),
    "no share": ((*COMPARE, "--arm", "top_share=nan"), "write a share as in top_share=0.8"),
    "superscript k": ((*COMPARE, "--arm", "top_k=²"), "'top_k=²': '²' is no whole number"),
    "endless k": ((*COMPARE, "--arm", f"top_k={'9' * 5000}"), "is no whole number"),
    "superscript rank": ((*COMPARE, "--arm", "lora=²"), "'lora=²': '²' is no whole number"),
    "bitfit of": ((*COMPARE, "--arm", "bitfit=3"), "bitfit, which takes no number"),
    "unknown option": ((*COMPARE, "--arm", "top_k=2,learningrate=1e-4"), "did you mean 'learning_rate'?"),
    "unlike any option": ((*COMPARE, "--arm", "top_k=2,x=1"), "the options are learning_rate,"),
    "no option": ((*COMPARE, "--arm", "all,fast"), "'all,fast': 'fast' is no OPTION=VALUE"),
    "two numbers of one arm": ((*COMPARE, "--arm", "top_k=2,3"), "'2,3' is no whole number"),
    "rate of an arm": ((*COMPARE, "--arm", "all,learning_rate=fast"), "'fast' is no number"),
    "rate twice": ((*COMPARE, "--arm", "all,learning_rate=1,learning_rate=1"), "is given twice"),
    "rate and rates": (
        (*COMPARE, "--arm", "all,learning_rate=1e-4,learning_rates=1e-4,1e-3"), "leave one of them",
    ),
    "no rate": ((*COMPARE, "--arm", "all,learning_rate="), "write learning_rate=…"),
    "method of no ranking": ((*COMPARE, "--arm", "last_k=2,method=tangent"), "method goes with"),
    "no method": ((*COMPARE, "--arm", "top_k=2,method=best"), "'best' is none of fisher,"),
    "alpha of layers": ((*COMPARE, "--arm", "all,alpha=4"), "alpha goes with lora"),
    "no name": ((*COMPARE, "--arm", "a/b:all"), "'a/b' is no name"),
    "endless name": ((*COMPARE, "--arm", f"layers={','.join(map(str, range(40)))}"), "shorter"),
    "half of an arm's LISA": ((*COMPARE, "--arm", "all,lisa_layers=2"), "lisa_interval go together"),
    "superscript seed": ((*COMPARE, "--arm", "all", "--seeds", "²"), "'²' is no whole number"),
    "endless rate": ((*COMPARE, "--arm", "all", "--learning-rate", "inf"), "'inf' is no number"),
    "rate": ((*TUNE, "--all", "--learning-rate", "nan"), "'nan' is no number"),
    "rates": ((*TUNE, "--all", "--learning-rates", "1e-4,fast"), "'fast' is no number"),
    "endless rates": ((*COMPARE, "--arm", "all", "--learning-rates", "inf,1"), "'inf' is no number"),
    "half of LISA": ((*TUNE, "--all", "--lisa-layers", 2), "--lisa-interval go together"),
    "two schedules": (
        (*TUNE, "--all", "--unfreeze-every-steps", 2, "--unfreeze-every-epochs", 1), "only one of",
    ),
    "share": ((*TUNE, "--top-share", "nan"), "'nan' is no number"),
    "reference": (("tune", "m", '{"hub": NaN}', "--all"), "the dataset is not JSON"),
    "half a character": (("rank", "m", '{"hub": "\\ud800"}'), "the dataset is not JSON"),
    "columns": (("upload", __file__, "--columns", '{"a": NaN}'), "--columns is not JSON"),
    "long name": (("upload", __file__, "--validation", LONG), "there is no file"),
    "policy of no k": (("estimate", "m", "glue/rte", "--policy", "layers"), "--layers"),
    "policy that counts none": (("estimate", "m", "d", "--policy", "all", "--k", 1), "--all"),
    "two numbers": (("estimate", "m", "d", "--top-k", 1, "--k", 2), "--k lists the numbers"),
    "two policies": (("estimate", "m", "d", "--layers", "0", "--all"), "exactly one of"),
    "k of layers": (("estimate", "m", "d", "--layers", "0", "--k", 1), "exactly one of"),
}  # fmt: skip


@pytest.mark.parametrize("case", MISUSED)
def test_an_option_that_cannot_be_read_is_a_message_and_exit_code_two(case: str) -> None:
    arguments, words = MISUSED[case]
    done = surgeon(*arguments)
    assert done.exit_code == 2, done.output
    assert words in " ".join(done.output.split())


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("jobs", "--key", "schlüssel"), 1, "cannot be sent"),
        (("tune", "m", "\udcff", "--all"), 1, "cannot be sent"),
        (("rank", "m", LONG), 3, "no service answers"),
        (("download", "ck_1", "OUT"), 3, "no service answers"),
    ],
    ids=["a key", "a name", "a long file", "a checkpoint"],
)
def test_what_cannot_be_sent_or_reaches_no_service_is_a_message(
    arguments: tuple[str, ...], code: int, words: str, tmp_path: Path
) -> None:
    done = surgeon(*(str(tmp_path / "out") if part == "OUT" else part for part in arguments))
    assert done.exit_code == code, done.output
    assert isinstance(done.exception, SystemExit)
    assert words in done.output


def test_a_url_that_is_none_is_said_plainly() -> None:
    done = surgeon("jobs", url="http://[::1")
    assert (done.exit_code, "cannot be sent" in done.output) == (1, True)
    assert isinstance(done.exception, SystemExit)


def test_a_folder_that_cannot_be_made_is_said_plainly(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = surgeon("download", "ck_1", tmp_path / "file" / "out")
    assert (done.exit_code, "Not a directory" in done.output) == (1, True)
    assert isinstance(done.exception, SystemExit)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("SURGEON_LEASE", "soon", "SURGEON_LEASE: "),
        ("SURGEON_LOG_LEVEL", "loud", "SURGEON_LOG_LEVEL: Input should be 'DEBUG', "),
        ("SURGEON_LEASE", "1", "the settings: lease must be longer than heartbeat"),
        ("SURGEON_API_KEY_HASHES", "s3cret", "SURGEON_API_KEY_HASHES: "),
    ],
)
def test_a_setting_that_cannot_be_is_said_plainly(
    name: str, value: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SURGEON_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("SURGEON_POLL", "5")  # serve sets it for its workers
    monkeypatch.setenv(name, value)
    settings_from_environment.cache_clear()
    for command in (["api"], ["serve"], ["db", "upgrade"]):
        done = CliRunner().invoke(app, command)
        assert (done.exit_code, words in done.output) == (1, True), done.output
        assert isinstance(done.exception, SystemExit)
        assert "s3cret" not in done.output
    settings_from_environment.cache_clear()


def test_estimate_takes_every_selection(embedded_service: Running) -> None:
    url = embedded_service.client.url
    for options, policy, expected in (
        (("--layers", "0,encoder.layer.2"), "layers", [(2, 0)]),
        (("--layers", "encoder.layer.3.attention", "--granularity", "sublayer"), "layers", [(1, 3)]),
        # No ranking is there to tell how many: the most, and the topmost one alone.
        (("--top-share", 0.5), "top_share", [(None, 0), (None, 3)]),
        (("--max-parameters", 10**9), "max_parameters", [(None, 0), (None, 3)]),
        (("--random-k", 4), "random_k", [(4, 0)]),
        (("--head-only",), "head_only", [(0, None)]),
        (("--policy", "last_k", "--k", 1, "--k", 2, "--include", "embeddings"), "last_k",
         [(1, 0), (2, 0)]),
    ):  # fmt: skip
        done = surgeon("estimate", TINY, "glue/rte", "--json", *options, url=url)
        assert done.exit_code == 0, done.output
        rows = json.loads(done.stdout)["rows"]
        assert {row["policy"] for row in rows} == {policy}
        assert [(row["k"], row["lowest_layer"]) for row in rows] == expected, rows
    for options, words in (
        (("--top-share", 2), "--top-share: "),
        (("--top-share", 0), "--top-share: "),
        (("--layers", "²"), "--layers: "),  # a digit that is no number is a name
    ):
        shown = surgeon("estimate", TINY, "glue/rte", *options, url=url)
        assert (shown.exit_code, words in shown.output) == (1, True), shown.output
