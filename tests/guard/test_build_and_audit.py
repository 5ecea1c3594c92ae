"""Building and auditing a guard in miniature: real digits, a real ResNet with fresh weights, every part in place."""

import json
import threading
from pathlib import Path

import pytest
import torch

from loradar.adapters import Card, load, merge_weights
from loradar.attacks import named_attacks, parse_attack
from loradar.core.balls import Linf
from loradar.core.errors import BadConfigError, BadDataError, BadFileError, WrongBaseError
from loradar.data import BENIGN_KINDS, as_source, corrupt, load_source, split
from loradar.evaluation.corruptions import Corrupted
from loradar.evaluation.names import kind
from loradar.guard import audit, build
from loradar.guard.attacks import ENOUGH, DetectorEvasion, ThroughSurrogate, can_evade
from loradar.guard.build import resolve
from loradar.guard.calibration_data import FITTED_KINDS, held_count, pseudo_unknowns
from loradar.guard.calibration_split import calibration_split, identities, used_images
from loradar.guard.config import GuardAuditConfig
from loradar.guard.guard import Guard
from loradar.guard.parts import merged_voters
from loradar.guard.strangers import fitted_strangers
from loradar.guard.surrogate import Surrogate
from loradar.models import load_base, new_base, save_base
from loradar.report.files import read_report
from tests.guard import built as guards

ROA = "roa-steps1-ncandidates2"


@pytest.fixture(scope="module")
def work(base_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("guard")
    for name in ("roa", "fast", "other"):
        guards.adapter(base_folder, folder / "adapters", name)
    assert guards.build(base_folder, folder).folder == folder / "guard"
    return folder


@pytest.fixture(scope="module")
def report(work: Path) -> dict[str, object]:
    page = guards.audit(
        guard=work / "guard",
        candidate=[work / "adapters" / "other"],
        fusion=["mean", "majority"],
        unfitted=["fgsm", "defocus_blur"],
        max_adaptive_images=4,
        max_certified_images=2,
        out=work / "audit",
        cache=work / "cache",
    ).page
    found: dict[str, object] = json.loads((page.parent / "report.json").read_text())
    return found


def test_a_guard_is_opened_by_one_call(work: Path) -> None:
    opened = Guard.open(work / "guard", precision="fp32")
    settings = opened.settings
    assert settings.voters == ("base", "roa", "fast")
    # one adapter is called as its threat is, the other was trained against that very setting
    assert settings.specialists == {ROA: "roa", "fast": "fast"}
    assert settings.labels == ("clean", ROA, "fast", "unknown")
    x = torch.rand(3, 3, 32, 32)
    with torch.no_grad():
        merged = merge_weights(opened.state.base.model, load(work / "adapters" / "fast"))(x)
        guarded = opened.replace(cascade=False).verdict(x)
    expected = (merged / settings.calibrations["fast"].temperature).log_softmax(1)
    torch.testing.assert_close(guarded.log_probs[2], expected, atol=1e-4, rtol=1e-4)
    assert opened(x).shape == (3, 10)


def test_the_same_settings_build_the_same_guard(work: Path, base_folder: Path, tmp_path: Path) -> None:
    guards.build(base_folder, work, out=tmp_path / "again")
    for name in ("guard.json", "guard.safetensors"):
        assert (tmp_path / "again" / name).read_bytes() == (work / "guard" / name).read_bytes()


def test_calibration_touches_nothing_that_was_used(work: Path) -> None:
    source = load_source("digits", size=(32, 32))
    cards = [load(work / "adapters" / name).card for name in ("roa", "fast")]
    used, unknown = used_images(source, cards, max_test_images=guards.LIMIT, seed=0)
    assert unknown == []
    assert len(used) == guards.LIMIT + guards.TRAIN + guards.VALIDATION
    images, record = calibration_split(source, cards, count=40, max_test_images=guards.LIMIT, seed=0)
    assert not set(identities(images)) & set(used)
    assert (record["count"], record["selected_by"]) == (40, 0)
    images, _ = calibration_split(source, cards, count=None, max_test_images=guards.LIMIT, seed=0)
    assert len(images) == 500
    with pytest.raises(BadDataError, match=r"99999 calibration images asked for, 1\d\d\d are neither trained nor"):
        calibration_split(source, cards, count=99999, max_test_images=guards.LIMIT, seed=0)


def test_where_nothing_is_left_images_of_a_selection_are_calibrated_on() -> None:
    """What `harden` leaves by default: every image is trained on, selected by, or reported on."""
    source = load_source("digits", size=(32, 32))
    first = split(source, seed=0)
    card = Card(base_fingerprint="", name="one", data=dict(first.record))
    images, record = calibration_split(source, [card], count=None, max_test_images=None, seed=0)
    assert set(identities(images)) == set(identities(first.validation))
    assert record["selected_by"] == record["count"] == len(first.validation)
    # an image that another adapter was trained on is none of them
    other = Card(base_fingerprint="", name="two", data=dict(split(source, seed=1, reported=360).record))
    both, _ = calibration_split(source, [card, other], count=None, max_test_images=None, seed=0)
    trained = set(identities(split(source, seed=1, reported=360).train))
    assert not set(identities(both)) & trained
    assert len(both) < len(images)


def test_calibration_images_of_another_source_are_of_all_its_classes() -> None:
    """Folders are ordered by class."""
    x, y = torch.rand(60, 3, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(3).repeat_interleave(20)
    used = as_source((torch.rand(9, 3, 8, 8), torch.arange(3).repeat(3)))
    images, _ = calibration_split(used, [], count=15, max_test_images=1, seed=0, other=as_source((x, y)))
    assert len(images) == 15
    assert set(images.labels.tolist()) == {0, 1, 2}


@pytest.mark.parametrize(("count", "rate", "held"), [(500, 0.01, 250), (144, 0.01, 99), (40, 0.1, 20), (27, 0.05, 19)])
def test_half_of_the_images_are_held_out_or_as_many_as_the_rate_needs(count: int, rate: float, held: int) -> None:
    assert held_count(count, rate) == held


def test_strange_attacks_are_those_of_no_threats_kind() -> None:
    specs = ["pgd:norm=l2,eps=1", "pgd:eps=16/255", "roa:height=8,width=2", "fgsm", "pgd:norm=l2,eps=1"]
    kept = {
        "pgd": ["pgd:eps=1,norm=l2", "roa:height=8,width=2", "fgsm"],
        "pgd:norm=l2": ["pgd:eps=16/255", "roa:height=8,width=2", "fgsm"],
        "roa+fgsm": ["pgd:eps=1,norm=l2", "pgd:eps=16/255"],
    }
    for threat, expected in kept.items():
        assert list(fitted_strangers(specs, {"threat": parse_attack(threat)})) == [
            parse_attack(spec).spec for spec in expected
        ]


def test_pseudo_unknowns_are_perturbations_without_their_aim() -> None:
    x = 0.4 + 0.2 * torch.rand(12, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    noisy = [x + 0.1 * torch.randn(x.shape, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2)]
    faint = x + 1e-4
    found = pseudo_unknowns(x, [*noisy, faint])
    rows = torch.cat([rows for rows, _ in found])
    assert sorted(rows.tolist()) == list(range(12)), "one for each image, and none of what is too faint to be told"
    assert [len(rows) for rows, _ in found] == [3, 3, 3, 3], "as many of each kind, and early rows as well as late"
    for (rows, images), change in zip(found, [*(noisy[0] - x,) * 2, *(noisy[1] - x,) * 2], strict=True):
        assert not torch.isclose(images, (x + change)[rows].clamp(0, 1)).flatten(1).all(1).any()
        torch.testing.assert_close((images - x[rows]).std(), change.std(), rtol=0.2, atol=0)
    shuffled = (found[1][1] - x[found[1][0]]).flatten(2).sort(2).values
    torch.testing.assert_close(shuffled, (noisy[0] - x)[found[1][0]].flatten(2).sort(2).values, atol=1e-5, rtol=0)


def test_the_report_has_its_fixed_form(report: dict[str, object]) -> None:
    assert report["schema"] == 2
    section = report["guard"]
    assert isinstance(section, dict)
    identification, cost = section["identification"], section["cost"]
    assert isinstance(identification, dict)
    assert isinstance(cost, dict)
    assert identification["labels"] == ["clean", ROA, "fast", "unknown"]
    assert [sum(row) for row in identification["confusion"]] == [12, 12, 12, 24]
    assert set(identification["auroc"]) == {ROA, "fast"}
    assert 0 <= identification["fpr95"] <= 1
    assert section["max_fpr"] == 0.1
    assert [(a["kind"], a["total"]) for a in section["alarms"]] == [("untouched", 12), *((k, 12) for k in BENIGN_KINDS)]
    fitted = {a["kind"] for a in section["alarms"] if a["fitted"]}
    assert fitted == {"untouched", *FITTED_KINDS}
    assert {"jpeg", "shift", "sensor-noise"} <= fitted
    assert not {"blur", "gamma"} & fitted
    detections = {d["attack"]: (d["known"], d["fitted"], d["total"]) for d in section["detections"]}
    assert detections == {
        ROA: (True, True, 12),
        "fast": (True, True, 12),
        # the larger rectangle is of a threat's kind, and was left out
        "pgd:norm=l2,steps=2": (False, True, 12),
        "fgsm": (False, False, 12),
        "defocus_blur": (False, False, 12),
    }
    assert cost["forwards_per_image"]["everything runs"] > 1


def test_names_are_judged_on_the_guards_own_threats_whatever_it_is_audited_by(work: Path) -> None:
    page = guards.audit(
        guard=work / "guard",
        attacks=["noise"],
        fusion=["mean"],
        unfitted=[],
        threat=["adaptive"],
        max_adaptive_images=2,
        out=work / "audit-by-noise",
        cache=work / "cache",
    ).page
    found = json.loads((page.parent / "report.json").read_text())
    assert set(found["guard"]["identification"]["auroc"]) == {ROA, "fast"}
    assert {kind(row["attack"]) for row in found["rows"]} >= {"UniformNoise", "union"}


def test_the_union_stands_first_and_is_no_better_than_its_parts(report: dict[str, object]) -> None:
    rows = report["rows"]
    assert isinstance(rows, list)
    models = ["guard:mean", "guard:majority", "guard:mean, no cascade", "guard:mean, responding"]
    models += ["base", "roa", "fast", "other"]
    assert [row["model"] for row in rows[: len(models)]] == models
    for row in rows[: len(models)]:
        assert row["attack"].startswith("union(")
        assert (row["threat"], row["total"]) == ("adaptive", 4)
        parts = [r for r in rows if r["model"] == row["model"] and r["threat"] == "adaptive" and r is not row]
        assert row["correct"] <= min(part["correct"] for part in parts)
    mixture = next(r for r in rows if r["model"] == "base" and r["attack"].startswith("mixture("))
    own = [r for r in rows if r["model"] == "base" and r["total"] == 12]
    assert mixture["correct"] == sum(r["correct"] for r in own)
    kinds = {kind(row["attack"]) for row in rows if row["model"] == "guard:mean"}
    assert kinds >= {"ROA", "PGD", "evade ROA", "evade PGD"}
    assert any(r["model"].startswith("mask:") and r["attack"].startswith("certified(") for r in rows)


def test_a_guard_of_objects_in_memory_is_that_of_folders(work: Path, base_folder: Path, tmp_path: Path) -> None:
    """Base, adapters, images and attacks as objects; what config names in their place is not there."""
    source, base = load_source("digits", size=(32, 32)), load_base(str(base_folder))
    x, _ = source.train.fetch(torch.arange(20))
    adapters = {name: load(work / "adapters" / name) for name in ("roa", "fast")}
    config = guards.settings(tmp_path / "nowhere", work, adapter=[], data="nowhere", out=tmp_path / "guard")
    job = resolve(config, base=base, adapters=adapters, source=source, attacks=named_attacks(guards.ATTACKS))
    guard = build.run(job).guard
    expected = Guard.open(work / "guard", precision="fp32")
    assert torch.equal(guard.predict_proba(x), expected.predict_proba(x))
    assert (tmp_path / "guard" / "guard.safetensors").read_bytes() == (
        work / "guard" / "guard.safetensors"
    ).read_bytes()
    settings = GuardAuditConfig(
        guard=tmp_path / "nowhere",
        data="nowhere",
        fusion=["mean"],
        unfitted=[],
        threat=["transfer"],
        max_test_images=guards.LIMIT,
        max_certified_images=1,
        out=tmp_path / "audit",
        cache=work / "cache",
        precision="fp32",
    )
    other = {"other": load(work / "adapters" / "other")}
    result = audit.run(audit.resolve(settings, guard=guard, candidates=other, source=source))
    assert {row.model for row in result.report.rows} >= {"guard:mean", "base", "roa", "fast", "other"}
    assert result.page.exists()


def test_a_guard_is_opened_while_others_run(work: Path) -> None:
    guard = Guard.open(work / "guard", precision="fp32")
    x = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    expected, wrong, done = guard.predict_proba(x), [], threading.Event()

    def serve() -> None:
        while not done.is_set():
            try:
                if not torch.equal(guard.predict_proba(x), expected):
                    wrong.append("another answer")
            except Exception as error:
                wrong.append(repr(error))

    threads = [threading.Thread(target=serve) for _ in range(2)]
    threads += [threading.Thread(target=Guard.open, args=(work / "guard",)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads[2:]:
        thread.join()
    done.set()
    for thread in threads[:2]:
        thread.join()
    assert wrong == []
    assert torch.equal(guard.predict_proba(x), expected)


def test_the_page_shows_names_cost_and_confidence(report: dict[str, object], work: Path) -> None:
    assert report["notes"]
    page = (work / "audit" / "report.html").read_text()
    for part in (
        "Identification of attacks",
        "forward passes of the base per image",
        "calibration error",
        "Surrogate: a vote",
    ):
        assert part in page
    assert page.count("<svg") >= 2
    assert "Identification of attacks" in (work / "audit" / "report.md").read_text()
    again = read_report(work / "audit")
    assert again.guard is not None
    assert len(again.guard.suspects) == 6
    assert {row.model for row in again.rows} - set(again.baselines) == {"guard:mean", "base"}


def test_through_a_guard_attacks_keep_to_their_balls(work: Path) -> None:
    opened = Guard.open(work / "guard", precision="fp32")
    surrogate = Surrogate(opened)
    voters = tuple(merged_voters(opened.state.base, opened.state.adapters).values())
    x, y = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2])
    for spec in (
        "fia:eps=8/255,n_masks=2,steps=2",
        "pgd:steps=2",
        "fgsm|pgd:steps=1",
        "fgsm+pgd:steps=1",
    ):
        through = ThroughSurrogate(attack=parse_attack(spec), voters=voters)
        assert through.spec == parse_attack(spec).spec == spec
        x_adv = through(surrogate, x, y)
        assert float((x_adv - x).abs().max()) <= 8 / 255 + 1e-6
        assert not torch.equal(x_adv, x)


def test_an_evading_attack_looks_cleaner_within_the_same_reach(work: Path) -> None:
    opened = Guard.open(work / "guard", precision="fp32")
    surrogate = Surrogate(opened)
    x, y = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(1)), torch.tensor([0, 1, 2, 3])
    for spec in ("pgd:steps=3", "roa:steps=3,n_candidates=2,init=uniform"):
        plain = ThroughSurrogate(attack=parse_attack(spec), voters=())
        first, after = plain(surrogate, x, y), DetectorEvasion(attack=plain, steps=6, weight=3.0)(surrogate, x, y)
        changed = (after != x).any(1).flatten(1).sum(1)
        assert int(changed.max()) <= (25 if spec.startswith("roa") else 1024)
        if isinstance(ball := plain.traits.region, Linf):
            assert float((after - x).abs().max()) <= ball.radius + 1e-6
        with torch.no_grad():
            cleaner = surrogate.attacked(after)[1] - surrogate.attacked(first)[1]
        # no image loses more than the loss that the first goal is capped at, and together they gain
        assert float(cleaner.min()) >= -ENOUGH / 3.0
        assert float(cleaner.sum()) > 0


def test_only_attacks_of_one_ball_can_evade(work: Path) -> None:
    assert [can_evade(parse_attack(spec)) for spec in ("pgd", "roa", "fia", "pgd+roa", "autoattack")] == [
        *(True, True, True),
        *(False, False),
    ]
    opened = Guard.open(work / "guard", precision="fp32")
    with pytest.raises(BadConfigError, match="needs a guard's surrogate"):
        DetectorEvasion(attack=parse_attack("pgd"))(opened, torch.rand(1, 3, 32, 32), torch.tensor([0]))


def test_a_corruption_takes_the_place_of_an_attack() -> None:
    x, y = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0)), torch.zeros(3, dtype=torch.int64)
    changed = Corrupted(corruption="contrast", severity=5)(torch.nn.Identity(), x, y)
    assert torch.equal(changed, corrupt(x, "contrast", 5))


@pytest.mark.parametrize(
    ("changes", "error", "says"),
    [
        ({"adapter": []}, BadConfigError, "an adapter at least"),
        ({"respond": ["rao=mask"]}, BadConfigError, "names the threat 'rao'"),
        ({"respond": ["fast=masc"]}, BadConfigError, "names the defense 'masc'; did you mean 'mask'"),
        ({"respond": ["fast"]}, BadConfigError, "expected ATTACK=DEFENSE"),
        ({"force": ["jpeg"], "forbid": ["jpeg"]}, BadConfigError, "both forces and forbids"),
        ({"calibration_data": "digits", "calibration": 1000}, BadDataError, "calibration images overlap"),
        ({"calibration": 5000}, BadDataError, "5000 calibration images asked for"),
        (
            {"max_fpr": 0.01},
            BadConfigError,
            r"40 calibration images cannot keep false alarms to 0.01: that takes 99 held out",
        ),
        ({"answered_by": "rao"}, BadConfigError, "no adapter 'rao' is there to answer; did you mean 'roa'"),
        ({"attacks": ["pgd", "pgd"]}, BadConfigError, "two attacks are called 'pgd'"),
    ],
)
def test_mistakes_are_said_before_anything_is_built(
    work: Path, base_folder: Path, tmp_path: Path, changes: dict[str, object], error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        resolve(guards.settings(base_folder, work, out=tmp_path / "none", **changes))
    assert not (tmp_path / "none").exists()


def test_an_adapter_given_twice_and_one_of_another_base_are_refused(
    work: Path, base_folder: Path, tmp_path: Path
) -> None:
    twice = [work / "adapters" / "roa"] * 2
    with pytest.raises(BadConfigError, match="two models are called 'roa'"):
        resolve(guards.settings(base_folder, work, adapter=twice, out=tmp_path / "none"))
    strange = save_base(tmp_path / "base", new_base("timm:test_resnet", num_classes=10, input_size=(3, 32, 32), seed=5))
    other = guards.adapter(strange, tmp_path, "other")
    with pytest.raises(WrongBaseError, match="a pool has one base"):
        resolve(guards.settings(base_folder, work, adapter=[work / "adapters" / "roa", other], out=tmp_path / "none"))
    with pytest.raises(WrongBaseError, match="belongs to the base"):
        resolve(guards.settings(base_folder, work, adapter=[other], out=tmp_path / "none"))
    with pytest.raises(WrongBaseError, match="give the base that it was built with"):
        Guard.open(work / "guard", base=str(strange))


def test_an_adapter_that_was_exchanged_is_noticed(work: Path, base_folder: Path, tmp_path: Path) -> None:
    guards.build(base_folder, work, out=tmp_path / "guard")
    guards.adapter(base_folder, tmp_path / "guard" / "adapters", "other").rename(tmp_path / "other")
    place = tmp_path / "guard" / "adapters" / "fast"
    place.rename(tmp_path / "away")
    (tmp_path / "other").rename(place)
    with pytest.raises(BadFileError, match="is not the one it was calibrated with"):
        Guard.open(tmp_path / "guard")


def test_reporting_on_calibration_images_is_refused(work: Path) -> None:
    with pytest.raises(BadDataError, match=r"calibrated on \d+ of these 600 images"):
        guards.audit(guard=work / "guard", max_test_images=600, out=work / "none", cache=work / "cache")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"fusion": ["meen"]}, "did you mean 'mean'"),
        ({"unfitted": ["blurr"]}, "unknown attack 'blurr'"),
        ({"attacks": ["pdg"]}, "did you mean 'pgd'"),
    ],
)
def test_an_audit_says_mistakes_first(work: Path, changes: dict[str, object], says: str) -> None:
    with pytest.raises(BadConfigError, match=says):
        guards.audit(guard=work / "guard", out=work / "none", cache=work / "cache", **changes)
    assert not (work / "none").exists()


def test_the_base_is_bit_identical_afterwards(work: Path, base_folder: Path) -> None:
    before = {name: tensor.clone() for name, tensor in load_base(str(base_folder)).model.state_dict().items()}
    opened = Guard.open(work / "guard", precision="bf16")
    with torch.no_grad():
        opened(torch.rand(2, 3, 32, 32))
    assert all(torch.equal(tensor, before[name]) for name, tensor in opened.state.base.model.state_dict().items())
