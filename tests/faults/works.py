"""What is killed: every command that takes long, in miniature, and every save that takes the place of another."""

import gc
import importlib
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from tests.faults.saves import SAVES, saved

if TYPE_CHECKING:
    from loradar.guard.config import GuardBuildConfig

PGD = "pgd:steps=1"
FEW = ("loradar.jobs.pretrain", "sklearn.datasets", "timm")
"""What `pretrain` imports when it first needs it, which every fork would do again."""
ALL = (
    *FEW,
    "easyfsl.methods",
    "jinja2",
    "loradar.fewshot.evaluate",
    "loradar.fewshot.fit",
    "loradar.fewshot.meta_tune",
    "loradar.guard.audit",
    "loradar.guard.build",
    "loradar.jobs.audit",
    "loradar.jobs.harden",
    "loradar.report.page",
    "matplotlib.backends.backend_svg",
    "matplotlib.pyplot",
    "scipy.optimize",
    "scipy.stats",
    "sklearn.linear_model",
    "sklearn.metrics",
    "sklearn.neural_network",
    "tests.fewshot.made_pools",
    "tests.guard.built",
    "torch._dynamo",
)


def warm_up(modules: tuple[str, ...]) -> None:
    """Imports `modules`, and computes nothing: torch cannot differentiate in the fork of a process that has."""
    warnings.simplefilter("ignore")
    for module in modules:
        importlib.import_module(module)
    from PIL import Image

    Image.init()
    gc.collect()
    gc.freeze()  # collections in the forks leave the shared pages alone


def inputs(folder: Path) -> None:
    """What the commands start from: a base, two adapters, a pool, a guard, pictures."""
    from loradar.guard import build
    from tests.data.pictures import digits_folder
    from tests.guard import built

    saved(folder)
    for name in ("roa", "fast"):
        built.adapter(folder / "base", folder / "adapters", name)
    _meta_tune(folder, folder / "pool")
    digits_folder(folder / "support", classes=3, each=3)
    build.run(build.resolve(_guard(folder, folder / "guard", folder / "cache")))


def _pretrain(_inputs: Path, folder: Path) -> None:
    from loradar.jobs import pretrain
    from loradar.jobs.config import PretrainConfig

    config = PretrainConfig(
        architecture="timm:test_resnet",
        out=folder / "out",
        train=64,
        validation=8,
        max_test_images=20,
        epochs=3,
        batch_size=32,
        flip=False,
        precision="fp32",
    )
    pretrain.run(pretrain.resolve(config))


def _harden(inputs: Path, folder: Path) -> None:
    from loradar.jobs import harden
    from loradar.jobs.config import HardenConfig

    config = HardenConfig(
        base=str(inputs / "base"),
        out=folder / "out",
        cache=folder / "cache",
        attacks=[PGD],
        recipe="fast",
        train=16,
        validation=8,
        max_test_images=4,
        batch_size=16,
        epochs=2,
        baselines=False,
        effort="quick",
        flip=False,
        precision="fp32",
        adaptive="none",
    )
    harden.run(harden.resolve(config))


def _audit(inputs: Path, folder: Path) -> None:
    from loradar.jobs import audit
    from loradar.jobs.config import AuditConfig

    config = AuditConfig(
        base=str(inputs / "base"),
        adapter=[inputs / "adapters" / "fast"],
        out=folder / "out",
        cache=folder / "cache",
        attacks=[PGD],
        max_test_images=4,
        precision="fp32",
        effort="quick",
    )
    audit.run(audit.resolve(config))


def _guard(inputs: Path, out: Path, cache: Path) -> "GuardBuildConfig":
    from tests.guard import built

    return built.settings(
        inputs / "base",
        inputs,
        out=out,
        cache=cache,
        calibration=17,
        strangers=["pgd:norm=l2,steps=1"],
        respond=[],
    )


def _build(inputs: Path, folder: Path) -> None:
    from loradar.guard import build

    build.run(build.resolve(_guard(inputs, folder / "out", folder / "cache")))


def _meta_tune(inputs: Path, out: Path) -> None:
    from loradar.fewshot import meta_tune
    from tests.fewshot.made_pools import tuning

    config = tuning(inputs / "base", out, attack=PGD, baselines=False, warm_up=0, episodes=1, validation_episodes=1)
    meta_tune.run(meta_tune.resolve(config))


def _evaluate(inputs: Path, folder: Path) -> None:
    from loradar.fewshot import evaluate
    from loradar.fewshot.config import FewShotEvalConfig

    config = FewShotEvalConfig(
        pool=inputs / "pool",
        out=folder / "out",
        domain=["digits=digits"],
        setting=["3w1s"],
        query=2,
        episodes=2,
        attacks=[PGD],
        attacked_episodes=1,
        attacked_query=1,
        corrupted_episodes=1,
        transductive=False,
        ablations=False,
        precision="fp32",
    )
    evaluate.run(evaluate.resolve(config))


def _fit(inputs: Path, folder: Path) -> None:
    from loradar.fewshot import fit
    from loradar.fewshot.config import FewShotFitConfig

    config = FewShotFitConfig(
        support=str(inputs / "support"), pool=inputs / "pool", out=folder / "out", precision="fp32"
    )
    fit.run(fit.resolve(config))


COMMANDS: dict[str, Callable[[Path, Path], None]] = {
    "pretrain": _pretrain,
    "harden": _harden,
    "audit": _audit,
    "guard build": _build,
    "meta-tune": lambda inputs, folder: _meta_tune(inputs, folder / "out"),
    "few-shot eval": _evaluate,
    "few-shot fit": _fit,
}


def _command(run: Callable[[Path, Path], None]) -> Callable[[Path], None]:
    return lambda folder: run(folder.parent / "inputs", folder)


WORKS: dict[str, Callable[[Path], object]] = {
    "saved": saved,
    "inputs": inputs,
    **{name: _command(run) for name, run in COMMANDS.items()},
    **{name: one.save for name, one in SAVES.items()},
}
