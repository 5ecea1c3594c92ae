"""Every door, by name."""

from loradar.data import load_source
from tests.fuzz import folders, http, images, published, texts
from tests.fuzz.doors import Door

DOORS: dict[str, Door] = {**folders.DOORS, **http.DOORS, **images.DOORS, **published.DOORS, **texts.DOORS}


def warm_up() -> None:
    """Makes what all inputs of a process share, which the first would take long for."""
    folders.valid()
    folders.guard_shares()
    folders.task_shares()
    http.server()
    load_source("digits")
