"""What several folders of tests share. Nothing here needs a network, a GPU, or data that is not built in."""

from pathlib import Path

import pytest
import torch

from loradar.models import new_base, save_base


@pytest.fixture(scope="session")
def base_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base with fresh weights for the built-in digits, as a folder that `load_base` opens."""
    base = new_base(
        "timm:test_resnet", num_classes=10, input_size=(3, 32, 32), classes=[str(i) for i in range(10)], seed=1
    )
    return save_base(tmp_path_factory.mktemp("bases") / "base", base)


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Tensors here are small: a second thread only waits for the first, and two test runs would wait for each other."""
    torch.set_num_threads(1)
