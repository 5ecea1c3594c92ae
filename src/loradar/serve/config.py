"""Settings of `loradar serve`. Imports no torch, so that help is instant."""

import re
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator
from pydantic_core import PydanticCustomError

from loradar.core.config import DEVICE, Device, Settings


def bounds_of(replicas: str) -> tuple[int, int]:
    """Reads N or MIN-MAX: how many there are at least and at most.

    >>> bounds_of("2"), bounds_of("2-8")
    ((2, 2), (2, 8))
    """
    found = re.fullmatch(r"([1-9][0-9]{0,3})(?:-([1-9][0-9]{0,3}))?", replicas)
    least, most = (int(found[1]), int(found[2] or found[1])) if found else (1, 0)
    if most < least:
        raise PydanticCustomError("replicas", "expected N or MIN-MAX, for example 2 or 2-8")
    return least, most


class ServeConfig(Settings):
    """Serves models over HTTP: answers, versions that are swapped under load, metrics."""

    models: list[str] = Field(
        ...,
        min_length=1,
        description="[NAME[@VERSION]=]PLACE: the folder of a guard, a few-shot task or an adapter, or a base as harden takes "
        "it. Of several versions of a name the first one is active.",
    )
    base: str | None = Field(
        None,
        description="The base of what does not say which it is for, or whose base has moved since it was made.",
    )
    key: Path | None = Field(None, description="Public key; a folder that its owner did not sign is refused.")
    host: str = Field("127.0.0.1", description="Address to listen on. Other than loopback needs --keys.")
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    keys: Path | None = Field(
        None,
        description="File of keys, a line each: 'predict KEY' or 'admin KEY'. Default: LORADAR_PREDICT_KEY and "
        "LORADAR_ADMIN_KEY in the environment.",
    )
    repository: Path | None = Field(
        None, description="Folder whose subfolders an admin may load as versions. Default: nothing is loaded later."
    )
    queue: int = Field(256, ge=1, description="Images that may wait; more are told to come again.")
    timeout: float = Field(30.0, gt=0, le=3600, description="Seconds for a request, its waiting included.")
    max_body_bytes: int = Field(16 * 2**20, ge=1024, description="Bytes of a request.")
    max_pixels: int = Field(25_000_000, ge=1, description="Pixels of an image, looked at before it is decoded.")
    max_images: int = Field(64, ge=1, description="Images of a request.")
    max_connections: int = Field(
        64, ge=1, description="Requests that are worked on at a time; an admin's come in beyond."
    )
    rate: float | None = Field(None, gt=0, description="Requests per second of each key. Default: as many as come.")
    memory: int | None = Field(
        None,
        ge=1,
        description="MB of weights that stay loaded; versions that were not asked for lately go first, never an active one.",
    )
    level: Literal["calm", "raised"] | None = Field(
        None, description="Fix the level of alarm of guards. Default: the traffic decides."
    )
    window: int = Field(200, ge=1, description="Last images of a guard that its level of alarm depends on.")
    webhook: str | None = Field(
        None,
        pattern=r"^https?://",
        description="Address that alarms are posted to, as JSON. Default: they are logged alone.",
    )
    try_attacks: bool = Field(
        False, description="Let admins have pictures attacked, on the page or by POST .../attack, to see what holds."
    )
    precision: Literal["auto", "fp32", "bf16"] = Field("auto", description="Number format that guards compute in.")
    device: Device = Field("auto", description=DEVICE)
    batch_size: int = Field(
        32,
        ge=1,
        description="Images per forward pass, of those that wait. At 1 answers have the bits of the library's.",
    )
    replicas: str | None = Field(
        None,
        description="N or MIN-MAX processes that answer, on Ray Serve. Default: this process alone, without Ray.",
    )
    ray: str | None = Field(
        None,
        description="Address of a running Ray cluster, or auto, on which the replicas are started or updated, one after the "
        "other. Default: Ray on this machine, until the command is stopped.",
    )

    @field_validator("replicas")
    @classmethod
    def _check_replicas(cls, replicas: str | None) -> str | None:
        if replicas is not None:
            bounds_of(replicas)
        return replicas
