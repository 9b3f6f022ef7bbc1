"""What is asked of a job, in the one file that every kind of job reads. Imports no torch.

    page, terminal  --submit or claim, under the lock-->  request.json {kind, arguments}  --worker-->  Run.request

It stays when the job has ended, until the next one is asked for, so that a page can show what was asked for last. Not in
description.txt: its settings are those of the last run that began, by which a run that was stopped continues.
"""

from dataclasses import asdict, dataclass, field

from ..experiment import Experiment, checked_settings
from ..files import naming_damage
from ..forms import ANY, ANYTHING, NUMBER, TEXT, require
from ..settings import SETTINGS

FORMAT_VERSION = 1
REQUEST_FILE = "request.json"
_FORM = {"format_version": NUMBER, "kind": TEXT, "arguments": {ANY: ANYTHING}}


@dataclass(frozen=True)
class Request:
    """A job as it is asked for: its kind (a name of `steps.JOBS`), and what this kind takes, as JSON can hold it."""

    kind: str
    arguments: dict = field(default_factory=dict)


def write_request(experiment: Experiment, request: Request) -> None:
    experiment.write({"format_version": FORMAT_VERSION} | asdict(request), REQUEST_FILE)


def read_request(experiment: Experiment) -> Request | None:
    """The request that was made last; None where there was none. Raises PruningError for a broken file."""
    if not experiment.has(REQUEST_FILE):
        return None
    content = experiment.read(FORMAT_VERSION, REQUEST_FILE)
    with naming_damage(experiment.path(REQUEST_FILE)):
        require(content, _FORM, "the whole")
        return Request(content["kind"], content["arguments"])


def arguments_of(experiment: Experiment, kind: str) -> dict:
    """The arguments of the last request if it was for a job of this kind, else none; raises PruningError for a broken file."""
    last = read_request(experiment)
    return last.arguments if last is not None and last.kind == kind else {}


def settings_asked_for(experiment: Experiment, *kinds: str) -> dict:
    """The settings that the last request gave a job of one of these kinds, else none; raises PruningError for a broken file."""
    last = read_request(experiment)
    if last is None or last.kind not in kinds or "settings" not in last.arguments:
        return {}
    path = experiment.path(REQUEST_FILE)
    with naming_damage(path):
        asked = checked_settings(last.arguments["settings"], path)
    return {name: value for name, value in asked.items() if name == "strategy" or name in SETTINGS}


def forget_request(experiment: Experiment) -> None:
    experiment.path(REQUEST_FILE).unlink(missing_ok=True)
