"""Settings of guard build and guard audit. Imports no torch, so that help is instant."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from loradar.core.config import (
    BASE,
    BATCH_SIZE,
    CACHE,
    DATA,
    MAX_TEST_IMAGES,
    REPORT_FOLDER,
    Count,
    RunConfig,
    default_cache,
)

STRANGERS = (
    "smooth:eps=16/255,cells=8",
    "smooth:eps=16/255,cells=4",
    "smooth:eps=12/255,cells=16",
    "pgd:norm=l2,eps=1",
    "roa-quick:height=8,width=8",
)
"""Attacks that an identifier learns to call unknown."""
UNFITTED = (
    "smooth:eps=12/255,cells=6",
    "smooth:eps=16/255,cells=12",
    "pgd:norm=l2,eps=2",
    "mi-fgsm",
    "roa-quick:height=3,width=10",
    "noise",
)
"""Attacks that no identifier is fitted on, so that what it makes of them can be measured."""


class GuardBuildConfig(RunConfig):
    """Makes a guard of a base and adapters: calibrates the voters, fits the identifier, writes the folder."""

    base: str = Field(..., description=BASE)
    adapter: list[Path] = Field([], description="Adapter folder, or hub:OWNER/NAME, of a voter; one at least.")
    data: str = Field("digits", description=DATA)
    attacks: list[str] = Field(
        ["roa", "fia", "pgd"],
        description="Attack to identify: [MYNAME=]NAME[:key=value,...]. The adapter of the same name answers it.",
    )
    strangers: list[str] = Field(
        list(STRANGERS),
        description="Attack to take for unknown; left out where it is of the kind of an attack to identify.",
    )
    calibration: Count = Field(
        None,
        ge=8,
        description="Images to calibrate on; no adapter was trained or is reported on them. Default: at most 500; where no "
        "others are left, those that the adapters' epochs were selected by.",
    )
    calibration_data: str | None = Field(
        None, description="Source of the calibration images. Default: images of --data that nothing else uses."
    )
    max_test_images: Count = Field(
        None,
        ge=1,
        description="Images that guard audit will report on, kept out of the calibration. Default: as there.",
    )
    out: Path = Field(Path("runs/guard"), description="Folder for the guard.")
    fusion: Literal["auto", "majority", "weighted", "mean", "logpool", "routed", "soft-routed"] = Field(
        "auto",
        description="Rule that combines the voters' predictions. auto attacks all rules and every adapter alone, adaptively, "
        "on calibration images, and takes what holds best.",
    )
    answered_by: str = Field(
        "",
        description="Adapter that answers alone, whatever the fusion; the identifier is a monitor. Default: as --fusion.",
    )
    base_votes: bool = Field(False, description="Count the base as a voter too.")
    abstain: float = Field(0.0, ge=0, le=1, description="Give no answer below this confidence.")
    cascade: bool = Field(True, description="Answer images that look clean with the base alone.")
    gate_fnr: float = Field(
        0.02, ge=0, le=1, description="Share of attacked calibration images, of any attack, that may look clean."
    )
    max_fpr: float = Field(
        0.01,
        gt=0,
        lt=0.5,
        description="Share of benign images, of every kind of traffic, that may be identified as attacked or unknown.",
    )
    respond: list[str] = Field(
        [],
        description="ATTACK=DEFENSE[+DEFENSE...] while alarmed. Defenses: mask, inpaint, smooth, jpeg, bit-depth.",
    )
    force: list[str] = Field([], description="Defense to apply to every image.")
    forbid: list[str] = Field([], description="Defense never to apply.")
    rectangle: int = Field(5, ge=1, description="Side, in pixels, of the rectangles that masking is certified against.")
    masks: int = Field(6, ge=2, description="Masks per axis of two-round masking.")
    batch_size: int = Field(128, ge=1, description=BATCH_SIZE)
    cache: Path = Field(default_factory=default_cache, description=CACHE)


class GuardAuditConfig(RunConfig):
    """Attacks a guard as a whole, and beside it the base and every adapter alone; writes the report."""

    guard: Path = Field(..., description="Folder of a guard, as `guard build` writes it, or hub:OWNER/NAME.")
    base: str | None = Field(None, description="The base, where it has moved since the guard was built.")
    candidate: list[Path] = Field([], description="Adapter folder, or hub:OWNER/NAME, to measure beside the guard.")
    data: str = Field("digits", description=DATA)
    attacks: list[str] = Field(
        [], description="[MYNAME=]NAME[:key=value,...]. Default: the attacks that the guard knows."
    )
    unfitted: list[str] = Field(
        list(UNFITTED),
        description="Attack or corruption that the identifier was not fitted on.",
    )
    fusion: list[str] = Field(
        ["majority", "weighted", "mean", "logpool", "routed", "soft-routed"], description="Fusion rule to measure."
    )
    threat: list[Literal["transfer", "adaptive"]] = Field(
        ["transfer", "adaptive"],
        description="transfer: crafted on the base. adaptive: crafted through the guard itself.",
    )
    max_test_images: Count = Field(None, ge=1, description=MAX_TEST_IMAGES)
    max_adaptive_images: Count = Field(
        None, ge=1, description="Reported images to attack adaptively. Default: all reported images."
    )
    max_certified_images: Count = Field(
        None, ge=1, description="Reported images for the certificate of masking. Default: all reported images."
    )
    evade_steps: int = Field(20, ge=1, description="Steps of the attacks that also try to be identified as clean.")
    out: Path = Field(Path("runs/guard-audit"), description=REPORT_FOLDER)
    batch_size: int = Field(128, ge=1, description=BATCH_SIZE)
    cache: Path = Field(default_factory=default_cache, description=CACHE)
