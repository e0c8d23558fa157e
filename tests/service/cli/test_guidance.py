"""What the `surgeon` command tells to do next, in its own words: options and commands."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from surgeon.cli import app
from tests.support.models.mirror import REAL_MODEL, TINY
from tests.support.service.services import Running


def surgeon(service: Running, *arguments: object, width: int = 80) -> Result:
    command = [*map(str, arguments), "--url", service.client.url]
    return CliRunner().invoke(app, command, env={"COLUMNS": str(width)})


def told(done: Result) -> str:
    return " ".join(done.output.split())


@pytest.fixture
def tickets(tmp_path: Path) -> Path:
    path = tmp_path / "tickets.csv"
    rows = [
        f"{n},please tell me where my order {n} is,{'billing' if n % 3 else 'shipping'}"
        for n in range(40)
    ]
    path.write_text("\n".join(["ticket,body,team", *rows]) + "\n")
    return path


def test_a_first_upload_is_mended_by_the_option_that_is_shown(
    embedded_service: Running, tickets: Path
) -> None:
    done = surgeon(embedded_service, "upload", tickets)
    assert done.exit_code == 1
    assert "'body' (40 different of 40) looks like the text" in told(done)
    tried = [line for line in done.output.splitlines() if line.startswith("  try: ")]
    assert tried == ["  try: --columns text=body,label=team"]
    stored = surgeon(embedded_service, "upload", tickets, *tried[0].removeprefix("  try: ").split())
    assert stored.exit_code == 0, stored.output
    listed = surgeon(embedded_service, "datasets", "--name", "tickets.csv").output
    assert stored.stdout.strip() in listed
    assert listed.splitlines()[1].split()[1:5] == ["classification", "36", "+", "4"]
    assert listed.splitlines()[2] == "  tickets.csv"
    assert surgeon(embedded_service, "datasets", "--name", "none").output.startswith("no dataset")


def test_rows_with_the_same_fault_are_one_line(embedded_service: Running, tickets: Path) -> None:
    tickets.write_text(
        "text,label\n" + "".join(f"a {n},{'' if n % 2 else n % 4}\n" for n in range(60))
    )
    done = surgeon(embedded_service, "upload", tickets, width=200)
    assert "30 problems found" in done.output
    assert "at tickets.csv, 30 rows (2, 4, 6, 8, 10, 12, 14, 16, 18, 20, …), column label" in told(
        done
    )


def test_what_is_noticed_in_an_upload_is_told_with_options(
    embedded_service: Running, tickets: Path
) -> None:
    labels = ("red", "blue", "red|blue", "green", "blue|green")
    rows = [f"please look at {n},{labels[n % 5]}" for n in range(60)]
    tickets.write_text("\n".join(["text,label", *rows]) + "\n")
    done = surgeon(embedded_service, "upload", tickets)
    assert done.exit_code == 0, done.output
    assert "warning: labels look like several labels" in told(done)
    assert 'give --label-separator "|" (problem multi_label)' in told(done)


def test_faults_are_told_with_the_options_that_set_the_fields(
    embedded_service: Running, tickets: Path
) -> None:
    fine = surgeon(embedded_service, "upload", tickets, "--columns", "text=body,label=team")
    dataset = fine.stdout.strip()
    for arguments, words in (
        (("rank", "all-MiniLM-L6-v2", dataset), f"at MODEL try: {REAL_MODEL}"),
        (
            ("tune", TINY, dataset, "--all", "--learning-rate", 7),
            "--learning-rate: Input should be",
        ),
        (("tune", TINY, dataset, "--top-k", 9), "--top-k: at most 4; pass a smaller number, or 4"),
        (("tune", TINY, dataset, "--last-k", 9), "try: --last-k 4"),
        (("tune", TINY, dataset, "--max-parameters", 5), "try: --max-parameters "),
        (("tune", TINY, dataset, "--all", "--max-length", 1000), "try: --max-length 64"),
        (("rank", TINY, dataset, "--max-length", 1000), "--max-length 1,000 is more than the 64"),
        (("search", TINY, dataset, "--learning-rates", "0,1"), "--learning-rates: Input should"),
        (("compare", TINY, dataset, "--arm", "top_k=9", "--arm", "all"), "--arm: arm 'top_k-9'"),
        (("rank", TINY, "ds_none"), "`surgeon datasets` lists them"),
        (("watch", "ft_none"), "`surgeon jobs` lists them"),
        (("jobs", "--status", "done"), "--status: Input should be 'queued'"),
        (("upload", tickets, "--columns", "text=boddy,label=team"), "at --columns text=…, tickets"),
    ):
        done = surgeon(embedded_service, *arguments)
        assert done.exit_code == 1, done.output
        assert words in told(done), done.output


def test_lists_at_80_columns_cut_no_name_and_no_id(
    embedded_service: Running, tickets: Path
) -> None:
    stored = surgeon(embedded_service, "upload", tickets, "--columns", "text=body,label=team")
    dataset = stored.stdout.strip()
    body = {"model": REAL_MODEL, "dataset": dataset, "method": "last", "name": "tickets, top down"}
    job = embedded_service.run("rankings", body)
    lines = surgeon(embedded_service, "jobs").output.splitlines()
    at = next(place for place, line in enumerate(lines) if line.startswith(job["id"]))
    assert lines[at].split()[:3] == [job["id"], "ranking", "succeeded"]
    assert lines[at + 1] == "  tickets, top down"
    whole = " ".join(" ".join(lines[at + 2 : at + 4]).split())
    assert whole.startswith(f"{REAL_MODEL} on {dataset} (tickets.csv)")
