"""`export`: the saved model of an experiment in the forms that are asked for, checked; copied or uploaded if wanted."""

import argparse
import shutil
import tempfile
from pathlib import Path

from ..errors import PruningError
from ..experiment import Experiment, sweep
from ..export.formats import FORMATS, PLAN, parse_formats
from ..files import written_whole
from ..runs.environment import prepare_this_process
from ..runs.export_request import ExportRequest
from ..runs.permissions import Permissions
from ..runs.requests import Request
from ..runs.status import claim
from ..settings import SETTINGS
from .arguments import add_output_root


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--experiment_name", required=True, help="The experiment whose cut model is exported.")
    add_output_root(parser)
    parser.add_argument("--format", default="hf", help=f"One or several, joined by commas: {', '.join(FORMATS)}. Default: hf.")
    parser.add_argument("--max_shard_size", default=SETTINGS["max_shard_size"].default, help=SETTINGS["max_shard_size"].help)
    parser.add_argument("--to", metavar="FOLDER", help="Copy the result into this folder too.")
    parser.add_argument("--push", metavar="OWNER/NAME", help="Upload to this repository of the hub; the token is HF_TOKEN.")
    parser.add_argument("--public", action="store_true", help="Everybody may see a repository that --push makes.")


def run(known: argparse.Namespace) -> int:
    """Makes the formats; returns the exit code. Raises PruningError when there is no checked model, or it cannot be done."""
    formats = parse_formats(known.format)
    sweep(known.output_root)
    experiment = Experiment.open(known.output_root, known.experiment_name)
    if formats != (PLAN,) and not experiment.is_saved:  # said before a job starts
        raise PruningError("analysis_no_model", name=experiment.name)
    experiment.refuse_if_worked_on()
    targets = _targets(known.to, formats)
    permissions = Permissions.of_this_command(known)
    if known.push and not permissions.token:
        raise PruningError("hub_token_missing")
    request = ExportRequest(formats, known.max_shard_size, known.push, not known.public)
    request.check(experiment)
    for leftover in claim(experiment, Request("export", request.arguments)):
        print(f"Removed {leftover}, which a stopped run left half-written.")
    prepare_this_process()
    from ..runs import steps

    steps.run("export", experiment, console=True, permissions=permissions)
    print()
    for name in formats:
        path = experiment.path(FORMATS[name].file)
        if name in targets:
            with written_whole(targets[name], path.stat().st_size, replace=False) as part:
                shutil.copyfile(path, part)
        print(f"{name}  {targets.get(name, path)}")
    return 0


def _targets(folder: str | None, formats: tuple[str, ...]) -> dict[str, Path]:
    """Where each format is copied to; raises PruningError, before anything is made, if it exists or cannot be written."""
    if folder is None:
        return {}
    root = Path(folder).expanduser()
    targets = {name: root / FORMATS[name].file for name in formats}
    for path in targets.values():
        if path.exists():
            raise PruningError("target_exists", path=path)
    above = next(parent for parent in (root, *root.absolute().parents) if parent.exists())
    try:
        with tempfile.TemporaryFile(dir=above):
            return targets
    except OSError as error:
        raise PruningError("disk_write", path=root, reason=error.strerror or error) from error
