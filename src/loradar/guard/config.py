"""Settings of guard build and guard audit. Imports no torch, so that help is instant."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from loradar.core.config import Config, Count


class GuardBuildConfig(Config):
    """Makes a guard of a base and adapters: calibrates the voters, fits the identifier, writes the folder."""

    base: str = Field(..., description="FOLDER, torchvision:NAME, timm:NAME, hub:OWNER/NAME or FILE:architecture=NAME.")
    adapter: list[Path] = Field([], description="Adapter folder. May be given several times; one at least.")
    data: str = Field(
        "digits", description="digits, hub:OWNER/NAME, parquet files, an image folder, cifar-10-batches-py."
    )
    attacks: list[str] = Field(
        ["roa", "fia", "pgd"],
        description="A threat to know: [MYNAME=]NAME[:key=value,...]. The adapter of its name is its specialist.",
    )
    calibration: int = Field(
        500, ge=8, description="Images to calibrate on, that no adapter trained or is reported on."
    )
    calibration_data: str | None = Field(None, description="Take them from here. Default: what --data has left.")
    max_test_images: Count = Field(
        500, ge=1, description="Images reported: the first so many of the test split; never used here."
    )
    out: Path = Field(Path("runs/guard"), description="Folder for the guard.")
    fusion: Literal["majority", "weighted", "mean", "logpool", "routed", "soft-routed"] = Field(
        "soft-routed", description="How opinions become one answer."
    )
    base_votes: bool = Field(False, description="The base's vote counts among the adapters'.")
    abstain: float = Field(0.0, ge=0, le=1, description="No answer below this confidence.")
    cascade: bool = Field(True, description="Images that look clean get the base's answer; the adapters do not run.")
    gate_fnr: float = Field(
        0.02, ge=0, le=1, description="Attacked calibration images that may look clean, of any kind."
    )
    max_fpr: float = Field(
        0.01, gt=0, lt=0.5, description="Clean calibration images that may be named a threat or unknown."
    )
    respond: list[str] = Field(
        [], description="THREAT=MEASURE[+MEASURE...] while alarmed: mask, inpaint, smooth, jpeg, bit-depth."
    )
    force: list[str] = Field([], description="Measures on every image.")
    forbid: list[str] = Field([], description="Measures never taken.")
    rectangle: int = Field(5, ge=1, description="Side of the rectangles that masking is certified against, in pixels.")
    masks: int = Field(6, ge=2, description="Masks an axis of two-round masking.")
    batch_size: int = Field(128, ge=1, description="Images a forward pass.")
    cache: Path = Field(Path("~/.cache/loradar"), description="Where attacked images are kept between runs.")


class GuardAuditConfig(Config):
    """Attacks a guard as a whole, and beside it the base and every adapter alone; writes the report."""

    guard: Path = Field(..., description="A guard's folder, as `guard build` writes it.")
    base: str | None = Field(None, description="The base, where it is no longer at the place that the guard names.")
    candidate: list[Path] = Field(
        [], description="Adapter folder to measure beside the guard. May be given several times."
    )
    data: str = Field(
        "digits", description="digits, hub:OWNER/NAME, parquet files, an image folder, cifar-10-batches-py."
    )
    attacks: list[str] = Field([], description="[MYNAME=]NAME[:key=value,...]. Default: the threats of the guard.")
    unfitted: list[str] = Field(
        ["fgsm", "noise", "defocus_blur", "contrast"],
        description="Threats that the identifier never saw: attacks, and corruptions such as contrast.",
    )
    fusion: list[str] = Field(
        ["majority", "weighted", "mean", "logpool", "routed", "soft-routed"], description="Rules to measure."
    )
    threat: list[Literal["transfer", "adaptive"]] = Field(
        ["transfer", "adaptive"], description="transfer: crafted on the base. adaptive: through the guard itself."
    )
    max_test_images: Count = Field(500, ge=1, description="Images: the first so many of the test split.")
    max_adaptive_images: Count = Field(None, ge=1, description="Of these, for the adaptive rows. Default: all.")
    max_certified_images: Count = Field(
        None, ge=1, description="Of these, for the certificate of masking. Default: all."
    )
    evade_steps: int = Field(20, ge=1, description="Steps of the attacks that also try to be named clean.")
    out: Path = Field(Path("runs/guard-audit"), description="Folder for report.json, report.md, report.html.")
    batch_size: int = Field(128, ge=1, description="Images a forward pass.")
    cache: Path = Field(Path("~/.cache/loradar"), description="Where attacked images are kept between runs.")
