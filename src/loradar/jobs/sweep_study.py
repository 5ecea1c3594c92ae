"""A sweep's trials in an Optuna study: who tries what, what was counted, and whether a trial is worth going on."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.pruners import SuccessiveHalvingPruner
from optuna.samplers import BaseSampler, GridSampler, RandomSampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import FrozenTrial, TrialState, create_trial

from loradar.core.errors import BadConfigError, BadFileError
from loradar.jobs.sweep_config import Range, SweepConfig

_REDUCTION = 3
"""Of the trials that come as far as a rung, one in three goes on."""


def sampled(config: SweepConfig) -> list[dict[str, Any]]:
    """The searched settings of every trial, in order: a function of the settings and the seed alone."""
    distributions = _distributions(config)
    sampler: BaseSampler = RandomSampler(seed=config.seed)
    if config.method == "grid":
        choices = {name: _choices(values) for name, values in config.search.items() if isinstance(values, list)}
        sampler = GridSampler(choices, seed=config.seed)
    with _quiet():
        study = optuna.create_study(sampler=sampler)
        asked = [study.ask(distributions).params for _ in range(config.count)]
    return [{name: _value(config, name, value) for name, value in params.items()} for params in asked]


def _distributions(config: SweepConfig) -> dict[str, BaseDistribution]:
    def of(name: str, choice: list[Any] | Range) -> BaseDistribution:
        if isinstance(choice, list):
            return CategoricalDistribution(_choices(choice))
        if choice.is_whole(name):
            return IntDistribution(int(choice.low), int(choice.high), log=choice.log)
        return FloatDistribution(choice.low, choice.high, log=choice.log)

    return {name: of(name, choice) for name, choice in config.search.items()}


def _choices(values: Sequence[Any]) -> list[Any]:
    """`values` as Optuna takes them: lists, such as those of layers, become text."""
    return [
        value if value is None or isinstance(value, bool | int | float | str) else json.dumps(value) for value in values
    ]


def _value(config: SweepConfig, name: str, drawn: Any) -> Any:
    choice = config.search[name]
    return choice[_choices(choice).index(drawn)] if isinstance(choice, list) else drawn


class SharedStudy:
    """The study in `path`, a journal that several processes may write: one trial for each of `plan`.

    Raises BadFileError where the journal is damaged, BadConfigError where it holds other trials.
    """

    def __init__(self, path: Path, config: SweepConfig, plan: Sequence[Mapping[str, Any]], *, epochs: int) -> None:
        # a third each time, the first time early in the training but not at once
        self._pruner = SuccessiveHalvingPruner(min_resource=max(1, epochs // 8), reduction_factor=_REDUCTION)
        self._path = path
        try:
            # a lock that needs no links: not every disk has them
            self._storage = JournalStorage(JournalFileBackend(str(path), lock_obj=JournalFileOpenLock(str(path))))
            with _quiet():
                self._study = optuna.create_study(
                    storage=self._storage, study_name="sweep", direction="maximize", load_if_exists=True
                )
            known = self.trials
        except OSError as error:
            raise BadFileError(f"could not write {path}: {error.strerror or error}; choose another folder") from error
        except (ValueError, LookupError, AssertionError, TypeError) as error:
            raise BadFileError(
                f"{path} is no journal that can be read ({error}); delete it to go on: epochs beside it are kept"
            ) from error
        distributions = _distributions(config)
        drawn = [{name: _choices([value])[0] for name, value in settings.items()} for settings in plan]
        if any(trial.params != params for trial, params in zip(known, drawn, strict=False)):
            raise BadConfigError(f"{path} holds trials that another version of Optuna drew; choose another out")
        for params in drawn[len(known) :]:
            self._study.add_trial(create_trial(state=TrialState.WAITING, params=params, distributions=distributions))

    @property
    def trials(self) -> list[FrozenTrial]:
        """All trials, by number."""
        return self._study.get_trials(deepcopy=False)

    def is_done(self, number: int) -> bool:
        """Whether a trial was finished, stopped, or failed."""
        return self.trials[number].state.is_finished()

    def start(self, number: int) -> float:
        """Notes that a trial runs; returns the seconds that killed runs have spent on it."""
        trial = self.trials[number]
        if trial.state == TrialState.WAITING:
            self._storage.set_trial_state_values(trial._trial_id, TrialState.RUNNING)
        return float(trial.user_attrs.get("seconds", 0.0))

    def report(self, number: int, epoch: int, score: float, seconds: float) -> None:
        """Notes what was counted after `epoch`, from 1, and the seconds spent so far; the same again changes nothing."""
        trial = self.trials[number]
        self._storage.set_trial_user_attr(trial._trial_id, "seconds", seconds)
        if trial.intermediate_values.get(epoch) != score:
            self._storage.set_trial_intermediate_value(trial._trial_id, epoch, score)

    def should_stop(self, number: int) -> bool:
        """Whether Optuna's pruner ends a trial after the epoch that was reported last.

        The pruner notes what it has seen in the study that it is given. A run killed between such a note and its answer would
        be answered otherwise when it goes on, so all reports are told again to a study in memory: the answer depends on
        them alone.
        """
        with _quiet():
            replayed = optuna.create_study(direction="maximize", pruner=self._pruner, sampler=RandomSampler(seed=0))
        stops = False
        for trial in sorted(self.trials, key=lambda each: each.number == number):  # its own reports last
            again = replayed.ask()
            for epoch, score in sorted(trial.intermediate_values.items()):
                again.report(score, epoch)
                stops = again.should_prune()
        return stops

    def finish(self, number: int, score: float, *, stopped: bool) -> None:
        """Notes that a trial has ended with `score`."""
        state = TrialState.PRUNED if stopped else TrialState.COMPLETE
        self._storage.set_trial_state_values(self.trials[number]._trial_id, state, [score])

    def fail(self, number: int, reason: str) -> None:
        """Notes that a trial came to no end, and why."""
        trial = self.trials[number]
        self._storage.set_trial_user_attr(trial._trial_id, "reason", reason)
        self._storage.set_trial_state_values(trial._trial_id, TrialState.FAIL)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without Optuna's lines on standard error about studies that it made."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)
