"""A few odd inputs for every door; `make fuzz` sends 10,000."""

from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import pytest

from tests.fuzz.run import draw, outcome
from tests.fuzz.table import DOORS, warm_up


@pytest.fixture(scope="module", autouse=True)
def _offline() -> Iterator[None]:
    warm_up()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
        for name in ("http_proxy", "https_proxy"):
            patched.setenv(name, "http://127.0.0.1:9")
        yield


@pytest.mark.parametrize("name", DOORS)
def test_an_odd_input_is_refused_or_right(name: str, tmp_path: Path) -> None:
    wrong = []

    def use(one: object) -> None:
        found, text = outcome(DOORS[name], one, tmp_path)
        if found not in ("refused", "accepted"):
            wrong.append((found, one, text))

    draw(DOORS[name], 15, 0, use)
    assert wrong == []
