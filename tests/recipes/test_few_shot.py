"""The few-shot path in miniature: a ViT and a ResNet with random weights, the built-in digits, every part in place."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from loradar.adapters import fold, load, plug, save, verify
from loradar.config import FewShotEvalConfig, FewShotFitConfig, MetaTuneConfig
from loradar.core.errors import BadConfigError, BadDataError, BadFileError, LoradarError, WrongBaseError
from loradar.data import load_source
from loradar.evaluation import FewShotRow, read_few_shot_report
from loradar.models import load_base, new_base, save_base
from loradar.recipes.few_shot_eval import few_shot_eval
from loradar.recipes.few_shot_fit import few_shot_classify, few_shot_fit
from loradar.recipes.meta_tune import epochs_of, meta_tune
from loradar.recipes.pools import base_of, open_pool
from tests.data.pictures import digits_folder

BASES: dict[str, dict[str, Any]] = {
    # ViT-S/16 with a smaller width and two blocks
    "vit": {"architecture": "timm:vit_small_patch16_224", "img_size": 32, "embed_dim": 48, "depth": 2, "num_heads": 3},
    "resnet": {"architecture": "timm:test_resnet"},
}


def make_base(folder: Path, kind: str) -> Path:
    options = dict(BASES[kind])
    name = str(options.pop("architecture"))
    return save_base(folder / kind, new_base(name, num_classes=7, input_size=(3, 32, 32), seed=1, **options))


def tuning(base: Path, out: Path, **changes: object) -> MetaTuneConfig:
    values: dict[str, object] = {
        "base": str(base),
        "data": "digits",
        "images_per_class": 12,
        "validation_classes": 4,
        "validation_episodes": 2,
        "out": out,
        "setting": "3w1s",
        "query": 2,
        "budgets": [0.1, 8],
        "rank": 2,
        "epochs": 2,
        "episodes": 2,
        "warm_up": 1,
        "learning_rate": 0.05,
        "precision": "fp32",
    }
    return MetaTuneConfig(**values | changes)


def measuring(tuned: Path, out: Path, **changes: object) -> FewShotEvalConfig:
    values: dict[str, object] = {
        "pool": tuned,
        "domain": ["digits=digits", "again=digits"],
        "in_domain": ["again"],
        "out": out,
        "setting": ["3w1s", "3w2s"],
        "query": 3,
        "episodes": 3,
        "attack": ["pgd:radius=4.5/255,steps=1", "pgd:radius=8/255,steps=1"],
        "attacked_episodes": 2,
        "attacked_query": 1,
        "corrupted_episodes": 2,
        "precision": "fp32",
    }
    return FewShotEvalConfig(**values | changes)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A pool of each kind of base, with every baseline."""
    folder = tmp_path_factory.mktemp("few-shot")
    attacks = {"vit": "pyramid:steps=2", "resnet": "pgd:steps=2,loss=cross_entropy,random_start=false"}
    readings = {"vit": "raw", "resnet": "relative"}
    found = {}
    for kind in BASES:
        config = tuning(
            make_base(folder, kind),
            folder / f"pool-{kind}",
            query_attack=attacks[kind],
            perturbation=readings[kind],
            kl="attacked-clean" if kind == "vit" else "clean-attacked",
            ablations=kind == "vit",
        )
        found[kind] = meta_tune(config)
    return found


@pytest.mark.parametrize("kind", BASES)
def test_members_share_their_start_and_differ(runs: dict[str, Path], kind: str) -> None:
    pool = open_pool(runs[kind])
    base = load_base(base_of(runs[kind])).model
    assert list(pool) == ["eps-0.1", "eps-8"]
    for name in pool:
        assert verify(runs[kind] / "pool" / name, base) == []
    one, other = (pool[name].deltas for name in pool)
    # timm starts the last normalisation of a residual block at 0, so fresh convolutions below it get no gradient
    assert any(not torch.equal(one[layer].a, other[layer].a) for layer in one)
    if kind == "vit":
        assert {name.rpartition(".")[2]: delta.groups for name, delta in one.items()} == {
            "qkv": 3,
            "proj": 1,
            "fc1": 1,
            "fc2": 1,
        }
    assert pool["eps-8"].card.selected_epoch in (0, 1)
    assert len(epochs_of(runs[kind] / "work" / "eps-8")) == 2
    clean = load(runs[kind] / "baselines" / "clean")
    assert not clean.deltas
    x = torch.rand(2, 3, 32, 32)
    assert not torch.equal(fold(base, clean)(x), base(x))


@pytest.fixture(scope="module")
def report(runs: dict[str, Path]) -> Path:
    return few_shot_eval(measuring(runs["vit"], runs["vit"].parent / "report")).parent


def test_every_method_is_measured_on_the_same_tasks(report: Path) -> None:
    found = read_few_shot_report(report)
    rows: dict[tuple[str, str], list[FewShotRow]] = {}
    for row in found.rows:
        rows.setdefault((row.method, row.attack.partition("(")[0]), []).append(row)
    everywhere = [
        *("AMT", "AMT without trimming", "no tuning", "clean meta-tuning (PMF)", "one adapter, random budgets"),
        *("one adapter, random budgets, unperturbed", "single member by support loss", "average of weights"),
        "average of logits",
    ]
    for method in everywhere:
        assert len(rows[method, "none"]) == 8, "two domains and two averages, in two settings"
        assert len(rows[method, "PGD"]) == 2 * len(rows[method, "none"])
        assert len(rows[method, "corruptions"]) == len(rows[method, "none"])
    assert {row.episodes for row in rows["AMT", "none"]} == {3}
    assert {row.episodes for row in rows["AMT", "PGD"]} == {2}
    by_domain = {(r.method, r.setting, r.attack, r.domain): r.mean for r in found.rows}
    for (method, setting, attack, domain), mean in by_domain.items():
        if domain == "digits":
            assert by_domain[method, setting, attack, "again"] == mean
    assert list(found.ladder.values())[-1] == "AMT"
    assert len(found.ladder) == 5
    assert all(abs(sum(blend.members.values()) - 1) < 1e-6 for blend in found.blends)
    assert len(found.tasks) == 2
    assert "member eps-8" in {row.method for row in found.rows}


def test_what_was_measured_is_not_measured_again(runs: dict[str, Path], report: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in (report / "work").rglob("*.json")}
    text = (report / "report.json").read_text()
    few_shot_eval(measuring(runs["vit"], report))
    assert {path: path.stat().st_mtime_ns for path in (report / "work").rglob("*.json")} == before
    assert (report / "report.json").read_text() == text
    few_shot_eval(measuring(runs["vit"], report, episodes=4))
    assert {
        row.episodes for row in read_few_shot_report(report).rows if row.method == "AMT" and row.attack == "none"
    } == {4}
    with pytest.raises(BadConfigError, match="holds a run with top = 2, now 1"):
        few_shot_eval(measuring(runs["vit"], report, top=1))


def test_the_other_options(runs: dict[str, Path], tmp_path: Path) -> None:
    config = measuring(
        runs["resnet"],
        tmp_path,
        domain=["digits=digits"],
        in_domain=[],
        setting=["3w1s", "variable"],
        episodes=2,
        attacked_episodes=0,
        corrupted_episodes=0,
        search="digits=digits",
        search_episodes=2,
        ablations=False,
        fine_tune_episodes=2,
    )
    rows = read_few_shot_report(few_shot_eval(config).parent).rows
    methods = {row.method for row in rows}
    assert {"AMT", "AMT, settings searched", "AMT-FT"} <= methods
    assert not any(name.startswith(("member", "top-", "pool of")) for name in methods)
    assert {row.domain for row in rows} == {"digits", "average of all domains"}


@pytest.fixture(scope="module")
def support(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return digits_folder(tmp_path_factory.mktemp("support"), classes=3, each=3)


@pytest.mark.parametrize("kind", BASES)
def test_a_folder_of_images_becomes_an_adapter_that_answers(
    runs: dict[str, Path], support: Path, tmp_path: Path, kind: str
) -> None:
    config = FewShotFitConfig(support=str(support), pool=runs[kind], out=tmp_path / "task", copies=1)
    fitted = few_shot_fit(config)
    assert fitted.seconds.keys() == {"features", "blend", "trim", "prototypes"}
    base = load_base(base_of(runs[kind])).model
    again = load(tmp_path / "task")
    assert again.card.classes == ("digit0", "digit1", "digit2")
    assert verify(tmp_path / "task", base) == []
    pictures = sorted(support.glob("*/*.png"))
    answers = few_shot_classify(tmp_path / "task", pictures)
    # the images that made the prototypes: with random weights most, not all, are nearest to their own
    right = sum(one.answer == path.parent.name for one, path in zip(answers, pictures, strict=True))
    assert right >= 6
    images = load_source(str(support), size=(32, 32)).train
    x, _ = images.fetch(torch.arange(len(images)))
    plugged = plug(base, again)(x).argmax(1)
    assert [again.card.classes[i] for i in plugged.tolist()] == [one.answer for one in answers]
    assert all(0.2 < one.confidence <= 1 for one in answers)


def test_a_truncated_fit_says_its_error(runs: dict[str, Path], support: Path, tmp_path: Path) -> None:
    config = FewShotFitConfig(support=str(support), pool=runs["vit"], out=tmp_path / "task", shot=1, rank=1)
    fitted = few_shot_fit(config)
    assert fitted.error is not None
    assert 0 < fitted.error < 1
    assert {delta.b.shape[1] for delta in load(tmp_path / "task").deltas.values()} == {1}


BAD_TUNING: dict[str, tuple[dict[str, Any], str]] = {
    "kl from a zero start": ({"query_attack": "pgd:random_start=false,loss=kl"}, "a zero start would never leave it"),
    "another attack": ({"query_attack": "roa"}, "expected pgd or pyramid"),
    "a radius of its own": ({"query_attack": "pgd:radius=3"}, "which follows from --budgets"),
    "a budget twice": ({"budgets": [8, 8]}, "none of them twice"),
    "an unknown member": ({"member": ["eps-9"]}, "did you mean 'eps-8'"),
    "too many classes": ({"setting": "9w1s"}, "9 classes a task asked for, 6 are there"),
    "too many shots": ({"setting": "3w12s"}, "a task of 12 shots"),
    "nothing to tune on": ({"validation_classes": 10}, "leave none to tune on"),
    "too long a warm-up": ({"warm_up": 2}, "warm_up is 2 of 2 epochs"),
}


@pytest.mark.parametrize("case", BAD_TUNING)
def test_mistakes_are_said_before_tuning(case: str, runs: dict[str, Path], tmp_path: Path) -> None:
    changes, says = BAD_TUNING[case]
    with pytest.raises(LoradarError, match=says):
        meta_tune(tuning(runs["vit"].parent / "vit", tmp_path / "out", **changes))
    assert not list(tmp_path.rglob("*.safetensors"))


BAD_MEASURING: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "an episode larger than the domain": ({"setting": ["11w1s"]}, BadDataError, "digits: 11 classes a task"),
    "a setting that is none": ({"setting": ["3x1"]}, BadConfigError, "expected WAYwSHOTs"),
    "a domain without a name": ({"domain": ["digits"]}, BadConfigError, "expected NAME=SOURCE"),
    "a domain twice": ({"domain": ["a=digits", "a=digits"], "in_domain": []}, BadConfigError, "give each another name"),
    "an unknown inside": ({"in_domain": ["leaves"]}, BadConfigError, "expected one of the domains"),
    "more attacked queries than queries": ({"attacked_query": 4}, BadConfigError, "expected at most query"),
    "no pool": ({"pool": Path("nowhere")}, BadFileError, "holds no pool"),
}


@pytest.mark.parametrize("case", BAD_MEASURING)
def test_mistakes_are_said_before_measuring(case: str, runs: dict[str, Path], tmp_path: Path) -> None:
    changes, error, says = BAD_MEASURING[case]
    with pytest.raises(error, match=says):
        few_shot_eval(measuring(runs["vit"], tmp_path / "out", **changes))
    assert not (tmp_path / "out").exists()


def test_a_pool_of_two_starts_is_refused(runs: dict[str, Path], support: Path, tmp_path: Path) -> None:
    base = load_base(base_of(runs["vit"])).model
    for name, adapter in open_pool(runs["vit"]).items():
        delta = next(iter(adapter.deltas.values()))
        if name == "eps-8" and delta.minus is not None:
            delta.minus[0].mul_(1.01)
        save(adapter, tmp_path / "pool" / name, base)
    with pytest.raises(WrongBaseError, match="different residual weights"):
        few_shot_fit(
            FewShotFitConfig(support=str(support), pool=tmp_path, base=base_of(runs["vit"]), out=tmp_path / "t")
        )


def test_a_support_that_does_not_do_is_refused(runs: dict[str, Path], support: Path, tmp_path: Path) -> None:
    settings = {"pool": runs["vit"], "out": tmp_path / "task"}
    with pytest.raises(BadDataError, match="class 'digit0' has 3 images, 4 shots asked for"):
        few_shot_fit(FewShotFitConfig(support=str(support), shot=4, **settings))
    one = tmp_path / "one" / "only"
    one.mkdir(parents=True)
    (one / "0.png").write_bytes(next(support.glob("digit0/*.png")).read_bytes())
    with pytest.raises(BadDataError, match="has 1 class"):
        few_shot_fit(FewShotFitConfig(support=str(tmp_path / "one"), **settings))
    for name in "ab":
        (tmp_path / "broken" / name).mkdir(parents=True)
        (tmp_path / "broken" / name / "x.png").write_bytes(b"no picture")
    with pytest.raises(BadDataError, match=r"x\.png cannot be read as an image"):
        few_shot_fit(FewShotFitConfig(support=str(tmp_path / "broken"), **settings))
    assert not (tmp_path / "task").exists()


def test_images_that_cannot_be_read_are_said_by_name(runs: dict[str, Path], support: Path, tmp_path: Path) -> None:
    few_shot_fit(FewShotFitConfig(support=str(support), pool=runs["vit"], out=tmp_path / "task", keep=1.0))
    with pytest.raises(BadDataError, match=r"could not read .*nothing\.png"):
        few_shot_classify(tmp_path / "task", [tmp_path / "nothing.png"])
    with pytest.raises(BadFileError, match="no adapter of a few-shot task"):
        few_shot_classify(runs["vit"] / "pool" / "eps-8", [])


def test_a_killed_tuning_ends_with_the_same_bits(runs: dict[str, Path], tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from loradar.recipes.meta_tune import meta_tune; "
        "from tests.recipes.test_few_shot import tuning; "
        "meta_tune(tuning(Path(sys.argv[1]), Path(sys.argv[2]), epochs=4, warm_up=0, member=['eps-8'], baselines=False))"
    )
    base = runs["vit"].parent / "vit"
    command = [sys.executable, "-c", code, str(base), str(tmp_path / "killed")]
    process = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, cwd=Path(__file__).parents[2])
    deadline = time.monotonic() + 100
    while not (tmp_path / "killed" / "work" / "eps-8" / "epochs" / "001.json").exists():
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    settings = {"epochs": 4, "warm_up": 0, "member": ["eps-8"], "baselines": False}
    files = []
    for name in ("killed", "whole"):
        place = meta_tune(tuning(base, tmp_path / name, **settings)) / "pool" / "eps-8"
        files.append((place / "adapter_model.safetensors").read_bytes())
    assert files[0] == files[1]
    assert json.loads((tmp_path / "whole" / "run.json").read_text())["base"] == str(base)
