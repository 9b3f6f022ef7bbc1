"""Asking for jobs without a queue: what `claim` writes for the job that a test runs in its own process."""

from dataclasses import asdict

from pruning.experiment import Experiment
from pruning.runs import trials
from pruning.runs.requests import Request, write_request
from pruning.runs.sensitivity import results
from pruning.settings import Settings


def ask_by_settings(experiment: Experiment, kind: str, settings: Settings) -> None:
    """Asks for a job of the kinds `recover`, `cost` and `prune`."""
    write_request(experiment, Request(kind, {"settings": settings.as_dict()}))


def ask_to_try(experiment: Experiment, waiting: list[trials.Waiting], judged_by: dict) -> None:
    write_request(experiment, Request("try", trials.arguments(waiting, judged_by)))


def ask_to_learn(experiment: Experiment, wanted: results.Question) -> None:
    write_request(experiment, Request("learn", asdict(wanted)))
