"""Guards are opened and asked from many threads at once; `python -m tests.guard.threads` asks for longer."""

from pathlib import Path

from tests.guard.threads import ask


def test_sixteen_threads_get_the_bits_of_one(tmp_path: Path) -> None:
    count = ask(tmp_path / "guard", 300)
    assert count.answers >= 300
    assert count.opened > 3
    assert (count.errors, count.different) == (0, 0)
