"""What the figures were computed with."""

import platform
from importlib.metadata import PackageNotFoundError, version

import torch

from loradar import __version__

PACKAGES = ("torch", "torchvision", "timm", "numpy", "scipy", "safetensors", "datasets", "pyautoattack")


def versions() -> dict[str, str]:
    """Python, loradar, the packages that can move a figure (those that are installed), the platform and the accelerator."""
    found = {"python": platform.python_version(), "loradar": __version__}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    found["platform"] = f"{platform.system()} {platform.machine()}"
    found["accelerator"] = torch.cuda.get_device_name() if torch.cuda.is_available() else "none (CPU)"
    return found
