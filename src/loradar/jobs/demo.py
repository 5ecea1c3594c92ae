"""The main job on built-in real data: no download, a few minutes."""

from pathlib import Path
from typing import Any

from loradar.core.names import BASE_CONFIG
from loradar.core.types import Progress
from loradar.jobs import harden, pretrain
from loradar.jobs.config import HardenConfig, PretrainConfig

SETTINGS: dict[str, Any] = {
    # crafted anew at every step: on digits, images that fool the base once teach the adapted model little. Training
    # takes fewer and larger steps, and fewer candidates and masks, than the default strengths that are measured with
    "attack_target": "defended",
    "attacks": [
        "roa=roa:steps=8,step_size=0.15,n_candidates=5",
        "fia=fia:steps=5,step_size=3.2/255,n_masks=5",
        "pgd=pgd:steps=5",
    ],
    "transfer_attacks": ["roa", "fia", "pgd"],
    "adaptive_attacks": ["roa", "fia", "pgd"],
    "train": 1200,
    "epochs": 10,
    "learning_rate": 5e-3,
}


def demo(out: Path, *, seed: int = 0, progress: Progress | None = None) -> harden.HardenResult:
    """Trains a base on handwritten digits and adapters against ROA, FIA and PGD, and writes the report."""
    shared: dict[str, Any] = {
        "data": "digits",
        "validation": 100,
        "max_test_images": 200,
        "flip": False,
        "crop": 2,
        "seed": seed,
    }
    base = out / "base"
    if not (base / BASE_CONFIG).exists():
        # weight gradients of narrow layers are slower in bf16 than in fp32 on processors
        settings = {"architecture": "timm:test_resnet", "epochs": 15, "learning_rate": 0.3, "batch_size": 64}
        settings |= {"precision": "fp32", "out": base, **shared}
        pretrain.run(pretrain.resolve(PretrainConfig(**settings)), progress=progress)
    config = HardenConfig(**SETTINGS, base=str(base), out=out / "harden", **shared)
    return harden.run(harden.resolve(config), progress=progress)
