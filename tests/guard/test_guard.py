"""The guard: one answer out of many, the same cheap as dear, exported as run, and from any thread."""

import threading
from typing import Any

import pytest
import torch
from torch import Tensor

from loradar.core.errors import BadConfigError
from loradar.guard.defenses import transforms
from loradar.guard.fusion import FUSIONS, RULES, Rule
from loradar.guard.guard import ABSTAINED, Guard
from loradar.guard.masking import pair_answers, two_round
from loradar.guard.policy import Policy
from loradar.guard.surrogate import Surrogate
from tests.guard import toys


@pytest.fixture(scope="module")
def guard() -> Guard:
    return toys.guard()


@pytest.fixture(scope="module")
def x() -> Tensor:
    return toys.traffic()


@pytest.mark.parametrize("rule", RULES)
def test_it_answers_what_its_rule_says_of_its_voters(guard: Guard, x: Tensor, rule: Rule) -> None:
    whole = guard.replace(fusion=rule, cascade=False, base_votes=rule == "mean")
    with torch.no_grad():
        verdict = whole.verdict(x)
        shared = whole.shared_features(x)
        log_probs = torch.stack([whole.voter_log_probs(v, shared) for v in range(3)])
        expected = FUSIONS[rule](whole.votes(log_probs, verdict.posterior))
    assert torch.equal(verdict.logits, expected)
    assert torch.equal(verdict.answers, expected.argmax(1))
    torch.testing.assert_close(verdict.passes, torch.full((len(x),), 2.2))


def test_the_base_votes_where_it_is_asked_to(guard: Guard, x: Tensor) -> None:
    with torch.no_grad():
        alone, beside = (guard.replace(cascade=False, base_votes=votes)(x).exp() for votes in (False, True))
        base = guard.voter_log_probs(0, guard.shared_features(x)).exp()
    torch.testing.assert_close(beside, (2 * alone + base) / 3)


def test_a_routed_image_is_its_specialists(guard: Guard, x: Tensor) -> None:
    with torch.no_grad():
        verdict = guard.replace(cascade=False, fusion="routed").verdict(x)
    named = verdict.posterior.argmax(1)
    assert {1, 2} <= set(named.tolist())
    for i, label in enumerate(named.tolist()):
        if label in (1, 2):
            torch.testing.assert_close(verdict.logits[i], verdict.log_probs[label, i])


def test_a_prior_moves_names_towards_clean_and_leaves_the_answers(guard: Guard, x: Tensor) -> None:
    plain, cautious = guard.replace(cascade=False), guard.replace(cascade=False, prior={"clean": 1e6})
    far = torch.rand(6, *x.shape[1:], generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before, after = plain.verdict(torch.cat([x, far])), cautious.verdict(torch.cat([x, far]))
    torch.testing.assert_close(before.named, before.posterior)
    torch.testing.assert_close(after.posterior, before.posterior)
    assert torch.equal(after.logits, before.logits)
    assert int((after.named.argmax(1) == 0).sum()) > int((before.named.argmax(1) == 0).sum())
    # what is like nothing known stays unknown whatever the prior
    unknown = len(guard.settings.labels) - 1
    assert after.named[len(x) :].argmax(1).tolist() == before.named[len(x) :].argmax(1).tolist() == [unknown] * 6


def test_the_cascade_asks_adapters_only_about_what_does_not_look_clean(guard: Guard, x: Tensor) -> None:
    with torch.no_grad():
        cheap, dear = guard.verdict(x), guard.replace(cascade=False).verdict(x)
        base = guard.voter_log_probs(0, guard.shared_features(x))
    skipped = cheap.log_probs[1].isnan().any(1)
    assert 0 < int(skipped.sum()) < len(x)
    torch.testing.assert_close(cheap.logits[skipped], base[skipped])
    torch.testing.assert_close(cheap.logits[~skipped], dear.logits[~skipped])
    torch.testing.assert_close(cheap.passes, torch.where(skipped, 1.0, 2.2))
    torch.testing.assert_close(cheap.posterior[~skipped], dear.posterior[~skipped])


def test_no_image_and_every_image_may_be_skipped(guard: Guard, x: Tensor) -> None:
    with torch.no_grad():
        torch.testing.assert_close(guard.replace(gate=0.0)(x), guard.voter_log_probs(0, guard.shared_features(x)))
        torch.testing.assert_close(guard.replace(gate=1.0)(x), guard.replace(cascade=False)(x))


def test_it_abstains_below_its_threshold(guard: Guard, x: Tensor) -> None:
    with torch.no_grad():
        logits = guard(x)
        middle = float(logits.softmax(1).amax(1).median())
        answers = guard.replace(abstain=middle).verdict(x).answers
    assert torch.equal(answers == ABSTAINED, logits.softmax(1).amax(1) < middle)
    assert 0 < int((answers == ABSTAINED).sum()) < len(x)


def responding(guard: Guard, **responses: Any) -> Guard:
    return guard.replace(level="raised", policy=Policy(responses=responses))


def test_a_response_changes_what_is_named_so_and_nothing_else(guard: Guard, x: Tensor) -> None:
    plain = guard.replace(cascade=False)
    with torch.no_grad():
        before, after = plain.verdict(x), responding(guard, noise=("smooth",)).verdict(x)
        smoothed = plain.verdict(transforms(toys.WINDOW)["smooth"](x))
    noisy = before.posterior.argmax(1) == 2
    assert 0 < int(noisy.sum()) < len(x)
    assert torch.equal(after.defended, noisy)
    torch.testing.assert_close(after.logits[~noisy], before.logits[~noisy])
    torch.testing.assert_close(after.logits[noisy], smoothed.logits[noisy])
    torch.testing.assert_close(after.passes - before.passes, 2.2 * noisy)


def test_a_voter_answers_alone_and_the_identifier_only_names(guard: Guard, x: Tensor) -> None:
    alone = guard.replace(policy=Policy(answered_by="noise"))
    with torch.no_grad():
        verdict, other = alone.verdict(x), guard.replace(cascade=False).verdict(x)
        surrogate = Surrogate(alone).eval()
        torch.testing.assert_close(surrogate(x), verdict.log_probs[2])
    assert torch.equal(verdict.logits, verdict.log_probs[2])
    assert torch.equal(verdict.named, other.named)
    assert not bool(verdict.log_probs.isnan().any()), "no image passes by the gate"
    # responses go on, and are answered by the same voter
    smoothing = alone.replace(level="raised", policy=Policy(answered_by="noise", responses={"noise": ("smooth",)}))
    with torch.no_grad():
        smoothed = smoothing.verdict(x)
        expected = guard.voter_log_probs(2, guard.shared_features(transforms(toys.WINDOW)["smooth"](x)))
    assert 0 < int(smoothed.defended.sum()) < len(x)
    torch.testing.assert_close(smoothed.logits[smoothed.defended], expected[smoothed.defended])


def test_masking_answers_for_what_it_masks(guard: Guard, x: Tensor) -> None:
    masked = responding(guard, patch=("mask",))
    with torch.no_grad():
        verdict = masked.verdict(x)
        named = verdict.posterior.argmax(1) == 1
        table = pair_answers(masked.masker, x[named], masked.settings.mask_set.masks((32, 32)))
    assert int(named.sum()) > 0
    assert torch.equal(verdict.answers[named], two_round(table))


def test_forced_measures_need_no_alarm_and_end_the_cascade(guard: Guard, x: Tensor) -> None:
    forced = guard.replace(policy=Policy(forced=("bit-depth",)))
    with torch.no_grad():
        verdict = forced.verdict(x)
        expected = guard.replace(cascade=False).verdict(transforms(toys.WINDOW)["bit-depth"](x))
    assert bool(verdict.defended.all())
    torch.testing.assert_close(verdict.logits, expected.logits)


RESPONSES = Policy(responses={"patch": ("mask", "inpaint"), "noise": ("jpeg", "smooth", "bit-depth")})


@pytest.mark.parametrize("changes", [{"fusion": "majority"}, {"level": "raised", "masks": 2, "policy": RESPONSES}])
def test_what_is_exported_answers_as_what_is_run(guard: Guard, x: Tensor, changes: dict[str, Any]) -> None:
    one = guard.replace(**changes)
    batches = {0: torch.export.Dim("batch", min=1)}
    exported = torch.export.export(one, (x,), dynamic_shapes=(batches,)).module()
    other = toys.traffic(seed=8)[1:]
    with torch.no_grad():
        assert {0, 1, 2} <= set(one.verdict(other).posterior.argmax(1).tolist())
        torch.testing.assert_close(exported(other), one(other), atol=1e-4, rtol=1e-4)


def test_threads_on_one_base_answer_as_one_thread_does() -> None:
    voters = toys.models()
    first = toys.guard(fusion="mean")
    second = first.replace(fusion="routed", cascade=False)
    assert second.tails[0] is first.tails[0]
    batches = [toys.traffic(8, seed=seed) for seed in range(8)]
    with torch.no_grad():
        expected = {id(g): [g(batch) for batch in batches] for g in (first, second)}
    wrong: list[int] = []

    def serve(one: Guard) -> None:
        with torch.no_grad():
            for batch, logits in zip(batches, expected[id(one)], strict=True):
                if not torch.equal(one(batch), logits):
                    wrong.append(1)

    threads = [threading.Thread(target=serve, args=(one,)) for one in (first, second) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert all(
        torch.equal(p, q) for p, q in zip(voters["base"].parameters(), toys.models()["base"].parameters(), strict=True)
    )


def test_settings_are_part_of_what_a_fingerprint_sees(guard: Guard) -> None:
    assert not torch.equal(guard.digest, guard.replace(fusion="logpool").digest)
    assert torch.equal(guard.digest, guard.replace().digest)
    # one surrogate serves both rules, so that images crafted through it are kept once
    pair = [Surrogate(guard.replace(fusion=rule)).state_dict()["guard.digest"] for rule in ("mean", "majority")]
    assert torch.equal(*pair)


SOFT = [
    {},
    {"fusion": "majority", "cascade": False},
    {"fusion": "routed"},
    {"level": "raised", "policy": Policy(responses={"patch": ("mask",), "noise": ("smooth", "jpeg")})},
    {"policy": Policy(forced=("jpeg",))},
]


def test_the_name_clean_has_a_gradient_even_where_its_probability_is_none(guard: Guard) -> None:
    strange = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)).round().requires_grad_()
    log_clean = Surrogate(guard).attacked(strange)[1]
    assert float(log_clean.detach().max()) < -20
    (grad,) = torch.autograd.grad(log_clean.sum(), strange)
    assert bool((grad.flatten(1).abs().sum(1) > 0).all())


@pytest.mark.parametrize("changes", SOFT)
def test_the_surrogate_has_gradients_and_is_near(guard: Guard, x: Tensor, changes: dict[str, Any]) -> None:
    one = guard.replace(**changes)
    surrogate = Surrogate(one)
    leaf = x.clone().requires_grad_()
    logits, log_clean = surrogate.attacked(leaf)
    (grad,) = torch.autograd.grad((logits[:, 0] + log_clean).sum(), leaf)
    assert bool(grad.isfinite().all())
    assert bool((grad.flatten(1).abs().sum(1) > 0).all())
    with torch.no_grad():
        agreed = logits.argmax(1) == one(x).argmax(1)
    assert float(agreed.float().mean()) >= 0.6


def test_without_hard_choices_the_surrogate_is_the_guard(guard: Guard, x: Tensor) -> None:
    for rule in ("mean", "logpool", "soft-routed"):
        one = guard.replace(fusion=rule, cascade=False)
        with torch.no_grad():
            torch.testing.assert_close(Surrogate(one)(x), one(x))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"fusion": "meen"}, "there is no fusion 'meen'; did you mean 'mean'"),
        ({"masker": "pach"}, "no voter 'pach'; did you mean 'patch'"),
        ({"specialists": {"patch": "patch"}}, "'noise' is a threat in one of"),
        ({"abstain": 1.5}, "expected probabilities"),
        ({"prior": {"clean": 0.0}}, "expected a number above 0"),
        ({"prior": {"cats": 2.0}}, "any of clean, patch"),
        ({"prior": {"clean": float("inf")}}, "expected a number above 0"),
        ({"policy": Policy(responses={"pach": ("mask",)})}, "names the threat 'pach'"),
        ({"threats": ("clean",), "specialists": {"clean": ""}}, "these names are taken"),
        ({"calibrations": {}}, "the base and an adapter at least"),
    ],
)
def test_settings_that_do_not_fit_are_refused(guard: Guard, changes: dict[str, Any], says: str) -> None:
    with pytest.raises(BadConfigError, match=says):
        guard.replace(**changes)


def test_parts_of_another_pool_are_refused(guard: Guard) -> None:
    one = dict(list(guard.settings.calibrations.items())[:2])
    with pytest.raises(BadConfigError, match="3 models and 4 costs; expected 2 models"):
        guard.replace(calibrations=one, specialists={"patch": "patch", "noise": ""})
    with pytest.raises(BadConfigError, match="the identifier knows"):
        guard.replace(threats=("patch",), specialists={"patch": "patch"})
