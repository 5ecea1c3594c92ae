import platform

import pytest
import torch

from loradar.evaluation import versions


def test_versions_name_what_moves_a_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    found = versions()
    assert found["python"] == platform.python_version()
    assert found["torch"] == torch.__version__.partition("+")[0] or found["torch"] == torch.__version__
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert versions()["accelerator"] == "none (CPU)"
