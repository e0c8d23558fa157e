"""Validate a large CSV as an upload would be, in a process of its own: time, speed, peak memory.

    python -m bench.data.ingest            2 GB
    python -m bench.data.ingest --quick    100 MB
    python -m bench.data.ingest --megabytes 500 --gzip
    python -m bench.data.ingest --megabytes 200 --short    10 million rows, as many as are taken

The rows are invented and seeded. Exits with 1 where the peak is over --limit-mb.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from surgery.data.files.source import LIMITS
from surgery.data.ingest.ingest import ingest

WORDS = ("the", "of", "and", "to", "in", "film", "that", "it", "was", "acting", "on", "are", "plot")
ROW_WORDS = (20, 200)  # fewest and most of a row, as film reviews and news have them
BATCH_ROWS = 2_000


def write_rows(path: Path, size: int, *, packed: bool, short: bool = False) -> int:
    """Write a CSV of at least ``size`` bytes before compression. Returns its bytes."""
    chance = random.Random(0)
    texts = [
        " ".join(chance.choices(WORDS, k=chance.randint(*ROW_WORDS))) for _ in range(BATCH_ROWS)
    ]
    header = b"id,text,label\n"
    taken, number = len(header), 0
    with gzip.open(path, "wb", 1) if packed else path.open("wb") as file:
        file.write(header)
        while taken < size and not (short and number >= LIMITS.max_rows):
            rows = [
                _short_row(number + own) if short else _row(number + own, text)
                for own, text in enumerate(texts)
            ]
            batch = "".join(rows).encode()
            file.write(batch)
            taken += len(batch)
            number += BATCH_ROWS
    return taken


def _short_row(number: int) -> str:
    """A row whose text the next or the previous row repeats, so every row is a duplicate."""
    return f"{number},w{number // 2:x},{'good' if number % 4 < 2 else 'bad'}\n"


def _row(number: int, text: str) -> str:
    """A row that contains its number, so no two rows are equal."""
    return f'{number},"{text}, ""{number}""",{"good" if number % 2 else "bad"}\n'


def validate(path: Path) -> dict[str, float]:
    """Ingest the file here and measure this process."""
    began, spent = time.perf_counter(), time.process_time()
    report = ingest(path, None, path.with_name("out"), train_format="csv", train_name=path.name)
    return {
        "seconds": time.perf_counter() - began,
        "cpu_seconds": time.process_time() - spent,
        "rows": sum(report.rows.values()),
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000,
    }


def main() -> int:
    """Write the file, validate it in a fresh process, print."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.data.ingest", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--megabytes", type=int, default=2000, help="size of the CSV (2000)")
    parser.add_argument("--quick", action="store_true", help="100 MB")
    parser.add_argument("--gzip", action="store_true", help="send it compressed")
    parser.add_argument(
        "--short", action="store_true", help="rows of one word, each twice; 10 million at most"
    )
    parser.add_argument("--limit-mb", type=int, default=500, help="of peak memory (500)")
    parser.add_argument(
        "--folder", type=Path, help="where to write (the system's temporary folder)"
    )
    parser.add_argument("--validate", type=Path, help=argparse.SUPPRESS)  # the fresh process
    given = parser.parse_args()
    if given.validate:
        print(json.dumps(validate(given.validate)))
        return 0
    megabytes = 100 if given.quick else given.megabytes
    with tempfile.TemporaryDirectory(prefix="bench-ingest-", dir=given.folder) as folder:
        path = Path(folder) / ("train.csv.gz" if given.gzip else "train.csv")
        size = write_rows(path, megabytes * 1_000_000, packed=given.gzip, short=given.short)
        command = [sys.executable, "-m", "bench.data.ingest", "--validate", str(path)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found = json.loads(done.stdout)
    print(
        f"{size / 1e6:,.0f} MB, {found['rows']:,.0f} rows: {found['seconds']:.1f} s "
        f"({found['cpu_seconds']:.1f} s of one core), "
        f"{size / 1e6 / found['seconds']:.1f} MB/s, peak memory {found['peak_mb']:,.0f} MB"
    )
    return int(found["peak_mb"] > given.limit_mb)


if __name__ == "__main__":
    sys.exit(main())
