"""Recipes: whole tables of settings, from which single ones depart."""

import pytest

from loradar.attacks import FGSM, MSD, PGD, ROA, WorstOf, parse_attack, selection_attack, training_attack
from loradar.core.config import validate
from loradar.core.errors import BadConfigError
from loradar.core.types import Attack
from loradar.jobs.config import HardenConfig
from loradar.jobs.recipes import DEFAULT, RECIPES, Recipe

TABLES = RECIPES.tables


@pytest.mark.parametrize("name", TABLES)
def test_a_recipe_sets_all_of_its_settings(name: Recipe) -> None:
    config = validate(HardenConfig, {"base": "b", "recipe": name})
    assert {key: getattr(config, key) for key in TABLES[name]} == TABLES[name]


def test_all_recipes_say_the_same_settings_and_the_default_is_that_of_the_schema() -> None:
    assert len({frozenset(settings) for settings in TABLES.values()}) == 1
    defaults = {key: HardenConfig.model_fields[key].default for key in TABLES[DEFAULT]}
    assert defaults == TABLES[DEFAULT]
    assert validate(HardenConfig, {"base": "b"}) == validate(HardenConfig, {"base": "b", "recipe": DEFAULT})


def test_what_is_given_stands_against_the_recipe() -> None:
    config = validate(HardenConfig, {"base": "b", "recipe": "transfer", "rank": 7, "clean_weight": 0.25})
    assert (config.rank, config.clean_weight, config.attack_target) == (7, 0.25, "base")


def test_an_unknown_recipe_is_one_line() -> None:
    with pytest.raises(BadConfigError, match=r"recipe is 'best'; .*'fast', 'balanced', 'strong' or 'transfer'"):
        validate(HardenConfig, {"base": "b", "recipe": "best"})


def test_the_table_names_every_setting() -> None:
    for name, settings in TABLES.items():
        assert name in RECIPES.in_words()
        assert all(key.replace("_", "-") in RECIPES.in_words() for key in settings)


@pytest.mark.parametrize(
    ("threat", "steps", "escalations", "expected"),
    [
        ("pgd:eps=8/255", 1, 0, FGSM(eps=8 / 255, noise=2.0, clip=False)),
        ("autoattack:eps=8/255", 1, 1, FGSM(eps=8 / 255, noise=3.0, clip=False)),
        ("pgd:norm=l2,eps=0.5", 1, 0, FGSM(norm="l2", eps=0.5, noise=1.0, clip=False)),
        ("pgd:eps=8/255,steps=50", 2, 0, PGD(eps=8 / 255, steps=2, step_size=6 / 255)),
        ("pgd:eps=8/255,steps=50", 2, 1, PGD(eps=8 / 255, steps=3, step_size=4 / 255)),
        (
            'msd:attacks="pgd:eps=8/255+pgd:norm=l2,eps=0.5"',
            2,
            0,
            MSD(
                attacks=(
                    PGD(eps=8 / 255, steps=2, step_size=6 / 255),
                    PGD(norm="l2", eps=0.5, steps=2, step_size=0.375),
                )
            ),
        ),
        (
            'msd:attacks="pgd:eps=8/255+pgd:norm=l2,eps=0.5"',
            1,
            0,
            WorstOf(
                attacks=(FGSM(eps=8 / 255, noise=2.0, clip=False), FGSM(norm="l2", eps=0.5, noise=1.0, clip=False))
            ),
        ),
        (
            "roa:height=7,width=3",
            3,
            0,
            ROA(height=7, width=3, stride=2, n_candidates=4, steps=10, step_size=2 / 11, schedule="linear"),
        ),
        (
            "roa:height=7,width=3",
            1,
            1,
            ROA(height=7, width=3, stride=2, n_candidates=4, steps=11, step_size=2 / 12, schedule="linear"),
        ),
        (
            "roa:height=7,width=3",
            19,
            1,
            ROA(height=7, width=3, stride=2, n_candidates=4, steps=20, step_size=2 / 21, schedule="linear"),
        ),
        ("fgsm:eps=8/255,noise=2,clip=false", 1, 0, FGSM(eps=8 / 255, noise=2.0, clip=False)),
        ("pyramid", 2, 0, parse_attack("pyramid")),
    ],
)
def test_training_meets_a_cheaper_attack_of_the_same_threat(
    threat: str, steps: int, escalations: int, expected: Attack
) -> None:
    assert training_attack(parse_attack(threat), steps, escalations=escalations) == expected


@pytest.mark.parametrize("threat", ["pgd+roa", "pgd|roa"])
def test_each_of_several_threats_is_cheapened(threat: str) -> None:
    found = training_attack(parse_attack(threat), 1)
    assert [type(part) for part in found.traits.parts] == [FGSM, ROA]
    assert type(found) is type(parse_attack(threat))


def test_epochs_are_chosen_by_an_attack_that_does_not_train() -> None:
    assert selection_attack(ROA(steps=5)) == ROA(steps=30)
    assert selection_attack(ROA(steps=50)) == ROA(steps=50)
    for threat in ("pgd:eps=8/255", "pgd:norm=l2"):
        chosen = selection_attack(parse_attack(threat))
        assert isinstance(chosen, PGD)
        assert chosen.loss == "margin"
        assert chosen.steps > 3
        assert chosen.ball == parse_attack(threat).traits.region
