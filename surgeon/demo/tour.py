"""``surgeon demo``: a tour of the service on this machine, which takes some minutes.

It starts the embedded service with a real six-layer encoder, uploads a generated dataset, ranks the
layers, fine-tunes five selections of layers, and compares the results. Without a terminal it prints
plain lines instead of progress bars.
"""

from __future__ import annotations

import signal
import time
from datetime import datetime
from pathlib import Path
from typing import Any

from surgeon.client import POLL_SECONDS, ApiError, Client, Unreachable
from surgeon.demo.agreement import write_csv
from surgeon.demo.progress import arms_progress
from surgeon.demo.service import (
    MODEL,
    DemoFailed,
    free_port,
    install_model,
    restart_line,
    running_service,
)
from surgeon.demo.view import (
    ALL,
    FIRST,
    FISHER,
    LAST,
    TANGENT,
    Arm,
    arms_table,
    best_arm,
    by_hand,
    conclusions,
)
from surgeon.terminal.progress import job_progress
from surgeon.terminal.terminal import console, say, show_result

Json = dict[str, Any]
SAMPLES = 256
TRAINING = {"epochs": 3, "batch_size": 16, "max_length": 32, "seed": 0}
# No learning rate suits all arms, and a search would take minutes more: the last step says how to
# run one. So there is a rule, which ``python -m bench.study.rates`` checks on held-out train rows.
RATE_OF_ALL, RATE_OF_FEW = 5e-5, 3e-4
RULE = (
    f"Learning rates go by a rule, they are not searched: {RATE_OF_ALL:g} where all layers train, "
    f"the usual rate of full fine-tuning; {RATE_OF_FEW:g} where two do, which at the lower rate "
    "learn too little in so few steps."
)
SENTENCES = (
    ("The letters from the lawyer are important.", "acceptable"),
    ("The letters from the lawyer is important.", "unacceptable"),
    ("The teacher that the students admired were kind.", "unacceptable"),
)


def run(keep: Path | None, rows: int) -> int:
    """Run the demo in a data directory that is new or empty. Returns the exit code."""
    started = datetime.now().astimezone().strftime("%Y%m%d-%H%M%S")
    folder = (keep or Path("surgeon-data") / f"demo-{started}").resolve()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        run_demo(folder, rows)
    except KeyboardInterrupt:
        say(f"\nStopped. What there is so far: {folder}")
        return 130
    except (DemoFailed, ApiError, Unreachable, OSError) as error:
        say(f"\nThe demo failed: {error}")
        return 1
    return 0


def head(text: str) -> None:
    """Print the title of a step."""
    console.print(f"\n[bold]{text}[/bold]", highlight=False)


def run_demo(folder: Path, rows: int) -> None:
    """Run all steps of the demo. Raises DemoFailed unless the data directory is new or empty."""
    began = time.monotonic()
    if folder.exists() and any(folder.iterdir()):
        raise DemoFailed(f"{folder} is not empty; name a new directory with --keep")
    install_model(folder)
    files = write_csv(folder / "agreement", rows)
    port = free_port()
    with running_service(folder, port) as client:
        head(f"1. Upload {rows} generated sentences: does the verb agree with its subject?")
        dataset = client.upload(*files)
        say(f"{dataset.id}: {' and '.join(str(path) for path in files)}")
        head(f"2. Rank the layers of {MODEL} by Fisher information, other methods beside it")
        ranking = rank(client, dataset.id)
        show_result(ranking, steps=False)  # the tour takes them
        head("3. Fine-tune five selections, the same settings for each but the learning rate")
        say(RULE)
        jobs = tune(client, dataset.id, ranking)
        arms = [finished_arm(client, name, job) for name, job in jobs.items()]
        console.print(arms_table(arms, next(iter(jobs.values()))["result"]["primary_metric"]))
        held_out = jobs[ALL]["resolved"]["dataset"]["rows"]["validation"]
        say(*conclusions(arms, held_out))
        best = best_arm(arms)
        head(f"4. Download the best checkpoint ({best.name}) and use it with plain transformers")
        say(str(client.download(best.checkpoint, folder / "best", "full")))
        show_predictions(folder / "best")
        head("5. The same by hand")
        say(*by_hand(client.url, files, (ranking, jobs[best.name]), best.checkpoint))
    head("6. Start the service again on this data, and search for layers and their rate")
    say(restart_line(folder, port), search_line(dataset.id, port))
    say(f"\nDone in {time.monotonic() - began:.0f} s.")


def rank(client: Client, dataset: str) -> Json:
    """Rank the layers by all methods. Returns the finished job."""
    body = {"model": MODEL, "dataset": dataset, "samples": SAMPLES, "method": "all"}
    with job_progress() as on_update:
        return succeeded(client.wait(client.submit("rankings", body), on_update))


def training_of(selection: Json) -> Json:
    """The training settings of an arm; the rule sets the learning rate."""
    rate = RATE_OF_ALL if selection["policy"] == "all" else RATE_OF_FEW
    return {**TRAINING, "learning_rate": rate}


def search_line(dataset: str, port: int) -> str:
    """The command that searches for the layers to train and their rate, instead of ruling it."""
    options = f"--epochs {TRAINING['epochs']} --batch-size {TRAINING['batch_size']}"
    return (
        f"surgeon search {MODEL} {dataset} {options} --max-length {TRAINING['max_length']} "
        f"--url http://127.0.0.1:{port}"
    )


def succeeded(job: Json) -> Json:
    """The job itself. Raises DemoFailed unless it succeeded."""
    if job["status"] != "succeeded":
        detail = (job["error"] or {}).get("detail", "stopped on request")
        raise DemoFailed(f"{job['id']} {job['status']}: {detail}")
    return job


def tune(client: Client, dataset: str, ranking: Json) -> dict[str, Json]:
    """Fine-tune all arms. Returns the finished jobs by arm."""
    orders = {entry["method"]: entry["order"] for entry in ranking["result"]["methods"]["methods"]}
    selections: dict[str, Json] = {
        FISHER: {"policy": "top_k", "k": 2, "ranking": ranking["id"]},
        TANGENT: {"policy": "layers", "layers": orders["tangent"][:2]},
        FIRST: {"policy": "first_k", "k": 2},
        LAST: {"policy": "last_k", "k": 2},
        ALL: {"policy": "all"},
    }
    task = {"model": MODEL, "dataset": dataset}
    jobs: dict[str, Json] = {}
    for name, selection in selections.items():
        # The longest run starts first, so that the workers finish at about the same time.
        body = {**task, "name": name, "priority": int(name == ALL)}
        body |= {"selection": selection, "training": training_of(selection)}
        # A dry run tells which layers an arm would train. Arms with the same layers share a run.
        dry = client.call("POST", "/v1/finetunes?validate_only=true", json=body)
        layers = dry["resolved"]["layers"]
        known = [job for job in jobs.values() if job["resolved"]["layers"] == layers]
        jobs[name] = known[0] if known else client.submit("finetunes", body)
    bars, on_update = arms_progress(console, list(jobs))
    with bars:
        while not all(job["terminal"] for job in jobs.values()):
            time.sleep(POLL_SECONDS)
            for name in [name for name, job in jobs.items() if not job["terminal"]]:
                jobs[name] = client.job(jobs[name]["id"])
                on_update(name, jobs[name])
    return {name: succeeded(job) for name, job in jobs.items()}


def finished_arm(client: Client, name: str, job: Json) -> Arm:
    """The row of a finished fine-tune in the table of arms."""
    result = job["result"]
    sizes = {entry["id"]: entry["bytes"] for entry in client.checkpoints(job["id"])}
    return Arm(
        name=name,
        layers=tuple(int(layer.rsplit(".", 1)[1]) for layer in result["trained_layers"]),
        learning_rate=job["spec"]["training"]["learning_rate"],
        metric=result["best"]["metrics"][result["primary_metric"]],
        parameters=result["trainable_parameters"],
        seconds=result["seconds"]["total"],
        checkpoint=result["best_checkpoint"],
        bytes=sizes[result["best_checkpoint"]],
    )


def show_predictions(folder: Path) -> None:
    """Print what the downloaded model predicts for a few sentences."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    inputs = tokenizer([text for text, _ in SENTENCES], padding=True, return_tensors="pt")
    with torch.no_grad():
        probabilities = model(**inputs).logits.softmax(-1)
    for (text, truth), row in zip(SENTENCES, probabilities, strict=True):
        predicted = model.config.id2label[int(row.argmax())]
        mark = "right" if predicted == truth else f"wrong, it is {truth}"
        say(f"  {text:<50} {predicted:<12} {float(row.max()):.3f}  {mark}")
