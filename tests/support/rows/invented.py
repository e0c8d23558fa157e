"""Files of invented rows in the shape of three presets, for tests without a mirror."""

from __future__ import annotations

import json
import random
from pathlib import Path

from surgery.data.presets.tasks import TASKS, Task

INVENTED = ("glue/cola", "glue/rte", "glue/stsb")
WORDS = "the a old new red cat dog house tree runs sleeps sees was is near under big"


def write_tasks(folder: Path) -> None:
    """GLUE-shaped files of invented rows."""
    chance = random.Random(0)
    for task in (TASKS[name] for name in INVENTED):
        target = folder / "datasets" / task.hub / task.config
        target.mkdir(parents=True)
        for split, count in ((task.train, 400), (task.validation, 80)):
            rows = [json.dumps(invented_row(task, index, chance)) for index in range(count)]
            (target / f"{split}.jsonl").write_text("\n".join(rows) + "\n")


def invented_row(task: Task, index: int, chance: random.Random) -> dict[str, object]:
    """Nine random words a text."""
    texts = [column for column in (task.text, task.text_pair) if column]
    row: dict[str, object] = {text: " ".join(chance.choices(WORDS.split(), k=9)) for text in texts}
    row[task.label] = index % 2 if task.labels else round(chance.uniform(0, 5), 3)
    return row
