"""The few-shot report: every method on the same tasks, nothing measured twice, every mistake said first."""

from pathlib import Path
from typing import Any

import pytest

from loradar.core.errors import BadConfigError, BadDataError, BadFileError
from loradar.fewshot.config import FewShotEvalConfig
from loradar.fewshot.evaluate import resolve, run
from loradar.fewshot.methods import MAIN_METHODS
from loradar.report.few_shot import FewShotRow, FewShotSection
from loradar.report.files import read_report
from tests.data.pictures import digits_folder


def few_shot_eval(config: FewShotEvalConfig) -> Path:
    return run(resolve(config)).page


def measuring(tuned: Path, out: Path, **changes: object) -> FewShotEvalConfig:
    values: dict[str, object] = {
        "pool": tuned,
        "domain": ["digits=digits", "again=digits"],
        "in_domain": ["again"],
        "out": out,
        "setting": ["3w1s"],
        "query": 3,
        "episodes": 3,
        "score": "compactness",
        "rank_keep_ratio": 0.9,
        "attacks": ["pgd:eps=4.5/255,steps=1", "pgd:eps=8/255,steps=1"],
        "attacked_episodes": 2,
        "attacked_query": 1,
        "corrupted_episodes": 2,
        "precision": "fp32",
    }
    return FewShotEvalConfig(**values | changes)


def read_section(folder: Path) -> FewShotSection:
    section = read_report(folder).few_shot
    assert section is not None
    return section


@pytest.fixture(scope="module")
def report(runs: dict[str, Path]) -> Path:
    return few_shot_eval(measuring(runs["vit"], runs["vit"].parent / "report")).parent


def test_every_method_is_measured_on_the_same_tasks(report: Path) -> None:
    found = read_section(report)
    rows: dict[tuple[str, str], list[FewShotRow]] = {}
    for row in found.rows:
        rows.setdefault((row.method, row.attack.partition(":")[0]), []).append(row)
    everywhere = [
        *("AMT", "AMT without trimming", "no tuning", "clean meta-tuning (PMF)", "one adapter, random budgets"),
        *("one adapter, random budgets, unperturbed", "single member by support loss", "average of weights"),
        *("average of logits", "AMT, members scored by loss", "AMT, transductive", "no tuning, transductive"),
    ]
    for method in everywhere:
        assert len(rows[method, "none"]) == 4, "two domains and two averages"
        assert len(rows[method, "pgd"]) == 2 * len(rows[method, "none"])
        assert len(rows[method, "corruptions"]) == len(rows[method, "none"])
    assert {row.episodes for row in rows["AMT", "none"]} == {3}
    assert {row.episodes for row in rows["AMT", "pgd"]} == {2}
    by_domain = {(r.method, r.setting, r.attack, r.domain): r.mean for r in found.rows}
    for (method, setting, attack, domain), mean in by_domain.items():
        if domain == "digits":
            assert by_domain[method, setting, attack, "again"] == mean
    assert list(found.ablation_chain.values())[-1] == "AMT"
    assert len(found.ablation_chain) == 5
    assert all(abs(sum(blend.members.values()) - 1) < 1e-6 for blend in found.blends)
    assert len(found.tasks) == 2
    assert "member eps-8" in {row.method for row in found.rows}


def test_a_head_of_its_own_and_stages_have_rows_that_say_what_they_are_worth(
    runs: dict[str, Path], tmp_path: Path
) -> None:
    changes = {"setting": ["3w2s"], "domain": ["digits=digits"], "in_domain": [], "ablations": False}
    # the second is the main attack once more, by another name
    curve = ["pgd:norm=l2,eps=0.5,steps=1", "again=pgd:eps=8/255,steps=1"]
    staged = few_shot_eval(measuring(runs["stages"], tmp_path / "stages", head="ridge", sweep_attacks=curve, **changes))
    plain = few_shot_eval(measuring(runs["resnet"], tmp_path / "plain", **changes))
    found, beside = (read_section(page.parent) for page in (staged, plain))
    means = {(row.method, row.attack): row.mean for row in found.rows if row.domain == "digits"}
    on = {name: {attack for method, attack in means if method == name} for name, _ in means}
    for name in ("AMT, nearest centroid", "AMT, nearest centroid, last features"):
        assert len(on[name]) == 4
    assert on["AMT"] == on[found.untuned] > on["AMT, nearest centroid"], "compared under every attack"
    on_curve = {method for method, attack in means if "norm=l2" in attack}
    assert on_curve == {*MAIN_METHODS, found.untuned}, "the further attack is on the main methods alone"
    # the same weights below: without tuning, the last features are those of the plain base
    expected = {row.attack: row.mean for row in beside.rows if row.method == "no tuning" and row.domain == "digits"}
    assert {attack: means["no tuning, last features", attack] for attack in expected} == expected
    assert list(found.ablation_chain.items())[-1] == ("+ ridge head (the full method)", "AMT")


def test_the_dial_is_measured_beside_single_members_and_the_best_that_a_choice_could_do(
    runs: dict[str, Path], tmp_path: Path
) -> None:
    changes = {"score": "held-out", "top": 2, "head": "ridge", "dial": [0.0, 1.0], "attacks": ["pgd:eps=8/255,steps=1"]}
    changes |= {"setting": ["3w2s"], "domain": ["digits=digits"], "in_domain": []}
    found = read_section(few_shot_eval(measuring(runs["resnet"], tmp_path, **changes)).parent)
    means = {(row.method, row.attack, row.domain): row.mean for row in found.rows}
    columns = {(row.attack, row.domain) for row in found.rows}
    for column in columns:
        best = means["best member of each task (by its queries)", *column]
        for method in ("single member by held-out answers", "member eps-8", "no tuning, ridge head"):
            assert best >= means[method, *column]
        assert {("AMT, robust 0", *column), ("AMT, robust 1", *column)} <= means.keys()
    assert found.untuned == "no tuning, ridge head"
    differences = {(row.method, row.attack, row.domain): row.mean for row in found.differences}
    assert differences
    for (method, attack, domain), difference in differences.items():
        expected = means[method, attack, domain] - means[found.untuned, attack, domain]
        assert difference == pytest.approx(expected)


def test_without_trimming_the_ladder_has_no_such_step(runs: dict[str, Path], tmp_path: Path) -> None:
    changes = {"head": "ridge", "rank_keep_ratio": 1.0, "attacks": [], "attacked_episodes": 0, "corrupted_episodes": 0}
    config = measuring(runs["resnet"], tmp_path, domain=["digits=digits"], in_domain=[], episodes=2, **changes)
    steps = read_section(few_shot_eval(config).parent).ablation_chain
    assert steps["+ blending"] == "AMT, nearest centroid"
    assert "+ trimming" not in steps


def test_peers_stand_on_the_base_and_on_the_blend(report: Path) -> None:
    pytest.importorskip("easyfsl", reason="easyfsl is not installed (extra: peers)")
    attacks: dict[str, set[str]] = {}
    for row in read_section(report).rows:
        attacks.setdefault(row.method, set()).add(row.attack.partition(":")[0])
    assert attacks["easyfsl BD-CSPN (transductive)"] == {"none", "corruptions", "pgd"}
    # an attack on the blend's own peer is none of those that are measured, and another would flatter it
    assert attacks["AMT with easyfsl BD-CSPN (transductive)"] == {"none", "corruptions"}


def test_what_was_measured_is_not_measured_again(runs: dict[str, Path], report: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in (report / "work").rglob("*.json")}
    text = (report / "report.json").read_text()
    few_shot_eval(measuring(runs["vit"], report))
    assert {path: path.stat().st_mtime_ns for path in (report / "work").rglob("*.json")} == before
    assert (report / "report.json").read_text() == text
    few_shot_eval(measuring(runs["vit"], report, episodes=4))
    assert {row.episodes for row in read_section(report).rows if row.method == "AMT" and row.attack == "none"} == {4}
    with pytest.raises(BadConfigError, match="holds a run with top = 1, now 2"):
        few_shot_eval(measuring(runs["vit"], report, top=2))


def test_the_other_options(runs: dict[str, Path], tmp_path: Path) -> None:
    config = measuring(
        runs["resnet"],
        tmp_path / "report",
        domain=[f"digits={digits_folder(tmp_path / 'domain', classes=6, each=9)}"],
        in_domain=[],
        setting=["3w1s", "variable"],
        episodes=2,
        attacked_episodes=0,
        corrupted_episodes=0,
        search=f"val={digits_folder(tmp_path / 'val', classes=4, each=8)}",
        search_episodes=2,
        ablations=False,
        transductive=False,
        fine_tune_episodes=2,
    )
    rows = read_section(few_shot_eval(config).parent).rows
    methods = {row.method for row in rows}
    assert {"AMT", "AMT, settings searched", "AMT-FT", "single member by a classifier of validation tasks"} <= methods
    assert not any(name.startswith(("member", "top-", "pool of")) for name in methods)
    assert "AMT, transductive" not in methods
    assert {row.domain for row in rows} == {"digits", "average of all domains"}


BAD_MEASURING: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "an episode larger than the domain": ({"setting": ["11w1s"]}, BadDataError, "digits: 11 classes a task"),
    "a setting that is none": ({"setting": ["3x1"]}, BadConfigError, "expected WAYwSHOTs"),
    "a domain without a name": ({"domain": ["digits"]}, BadConfigError, "expected NAME=SOURCE"),
    "a domain twice": ({"domain": ["a=digits", "a=digits"], "in_domain": []}, BadConfigError, "give each another name"),
    "an unknown inside": ({"in_domain": ["leaves"]}, BadConfigError, "expected one of the domains"),
    "more attacked queries than queries": ({"attacked_query": 4}, BadConfigError, "expected at most query"),
    "a dial of another score": ({"dial": [0.2]}, BadConfigError, "dial turns the score held-out, not compactness"),
    "a dial twice": ({"score": "held-out", "dial": [0.2, 0.5]}, BadConfigError, "expected other values from 0 to 1"),
    "a dial beyond its end": ({"score": "held-out", "dial": [1.5]}, BadConfigError, "from 0 to 1"),
    "a search of reported images": ({"search": "val=digits"}, BadConfigError, "whose figures it would flatter"),
    "no pool": ({"pool": Path("nowhere")}, BadFileError, "holds no pool"),
}


@pytest.mark.parametrize("case", BAD_MEASURING)
def test_mistakes_are_said_before_measuring(case: str, runs: dict[str, Path], tmp_path: Path) -> None:
    changes, error, says = BAD_MEASURING[case]
    with pytest.raises(error, match=says):
        few_shot_eval(measuring(runs["vit"], tmp_path / "out", **changes))
    assert not (tmp_path / "out").exists()
