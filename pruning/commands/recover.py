"""`recover`: repairs and trains the model that an experiment cut and saved. Alone, or launched in several processes.

experiment's settings + flags -> checks -> repair, training, judging, saving -> summary
"""

import argparse
import sys
from dataclasses import replace

from ..errors import PruningError
from ..experiment import Experiment
from ..runs.environment import prepare_this_process
from ..runs.permissions import Permissions
from ..runs.requests import Request, settings_asked_for
from ..settings import OF_THE_PERSON, SETTINGS, Settings, canonical, defaults_of, resolve
from ..strategies import DEFAULT_STRATEGY
from ..words import counted, readable_duration, readable_size
from .arguments import add_flag, given_settings, named_as_now
from .exits import telling_how_to_go_on
from .run import tell_summary

COMMAND = "recover"
_ASKS = ("reconstruct", "reconstruct_tokens")  # kept as the cut had them
_OF_OTHER_GROUPS = ("device", "dtype", "attn_implementation", "trust_remote_code", "corpus", "text_column", "seq_len")
_OF_OTHER_GROUPS += ("gradient_batch_size", "seed")
_OF_OUTPUT = ("output_root", "resume", "overwrite", "dry_run")
_TRAINING = tuple(name for name, setting in SETTINGS.items() if setting.group == "recovery" and name not in _ASKS)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of the group recovery, of how to compute and on which text; all else is the experiment's."""
    defaults = replace(defaults_of(DEFAULT_STRATEGY), finetune=True)
    parser.add_argument("--config", metavar="FILE", help="A .json or .yaml file of settings; flags win over it.")
    parser.add_argument("--experiment_name", required=True, help="The experiment whose cut model is recovered.")
    groups = {"recovery": (*_ASKS, *_TRAINING), "others, if not as in the cut": _OF_OTHER_GROUPS, "output": _OF_OUTPUT}
    for group, names in groups.items():
        section = parser.add_argument_group(group)
        for name in names:
            add_flag(section, SETTINGS[name], getattr(defaults, name) if group != "others, if not as in the cut" else None)


def run(known: argparse.Namespace) -> int:
    """Recovers a model; returns the exit code. Raises PruningError."""
    notes: list[str] = []
    given = given_settings(COMMAND, known, notes)
    experiment = Experiment.open(given.get("output_root") or SETTINGS["output_root"].default, given.pop("experiment_name"))
    settings = _settings(experiment, given, notes)
    if not experiment.is_recoverable:
        raise PruningError("step_needs", step="recovery", needed="a cut with a saved model")
    if not (settings.reconstruct or settings.finetune):
        raise PruningError("recover_nothing")

    prepare_this_process()
    from ..model import processes  # torch takes seconds; bad arguments are answered before

    permissions = Permissions.of_this_command(known)
    if processes.were_launched():
        if settings.dry_run:
            raise PruningError("dry_run_launched")
        processes.join(settings.device)
        if not processes.is_first():
            from ..runs.recover import assist

            assist(experiment, permissions)
            return 0
    if settings.dry_run:
        return _show_cost(experiment, settings, permissions)
    return _recover(experiment, settings, permissions)


def _settings(experiment: Experiment, given: dict, notes: list[str]) -> Settings:
    """The experiment's settings, those of training at their defaults; with `resume` those of the training that was stopped."""
    before = replace(experiment.settings, **settings_asked_for(experiment, COMMAND))
    values = resolve(named_as_now(COMMAND, given, notes), before.strategy)
    print(*notes, sep="", end="", file=sys.stderr)
    said = values.of(map(canonical, given))
    if not said.get("resume"):
        defaults = {name: SETTINGS[name].default for name in _TRAINING}
        return replace(before, **(defaults | {"finetune": True} | said))
    for name, value in said.items():
        if name not in (*_OF_OUTPUT, *OF_THE_PERSON) and value != getattr(before, name):
            raise PruningError("resume_differs", name=name, before=getattr(before, name), now=value)
    if said.get("overwrite"):
        raise PruningError("settings_exclusive", first="resume", second="overwrite")
    return replace(before, **{name: said.get(name, False) for name in ("resume", "overwrite", "dry_run")})


def _recover(experiment: Experiment, settings: Settings, permissions: Permissions) -> int:
    from ..runs import steps
    from ..runs.status import claim

    claim(experiment, Request(COMMAND, {"settings": settings.as_dict()}))
    with telling_how_to_go_on(COMMAND, experiment):
        steps.run(COMMAND, experiment, console=True, permissions=permissions, resume=settings.resume)
    tell_summary(experiment, [])
    return 0


def _show_cost(experiment: Experiment, settings: Settings, permissions: Permissions) -> int:
    """Prints what repair and training take; parts of them are timed, and nothing is changed."""
    from ..runs.recover import cost_of_recovery

    cost = cost_of_recovery(experiment, settings, permissions)
    if settings.reconstruct:
        if cost["repair_seconds"] is None:
            print("the cut model is repaired already")
        else:
            read, time = counted(settings.reconstruct_tokens, "token"), readable_duration(cost["repair_seconds"])
            print(f"the repair reads {read}: about {time}, from layers that were timed on some of them")
    if settings.finetune:
        _show_training(cost)
    else:
        print("no training is asked for")
    return 0


def _show_training(cost: dict) -> None:
    parts = ("weight", "training", "activation", "teacher")
    memory = ", ".join(f"{part} {readable_size(cost[f'{part}_bytes'])}" for part in parts if cost[f"{part}_bytes"])
    time = readable_duration(cost["seconds"])
    rows = [
        ("parameters trained", f"{cost['trained_parameters']:,} of {cost['parameters']:,}"),
        ("steps", f"{cost['steps']:,}, {counted(cost['tokens'], 'token')}"),
        ("memory", f"about {readable_size(cost['memory_bytes'])}: {memory}"),
        ("time", f"about {time}: {cost['seconds_per_step']:.2f} s for a step, timed on the second of two"),
    ]
    width = max(len(name) for name, _ in rows)
    print("\n".join(f"{name:<{width}}  {value}" for name, value in rows))
