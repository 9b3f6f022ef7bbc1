"""How a command ends: 0 done, 2 for input the person can mend (one sentence says what), 130 stopped, 1 anything else."""

import contextlib
import shlex
import sys
from collections.abc import Callable, Iterator

from ..errors import Cancelled, PruningError
from ..experiment import RECOVERY_FOLDER, Experiment
from ..process import this_process
from ..runs.status import last_written
from ..settings import SETTINGS

_USER_ERROR, _STOPPED, _FAILED = 2, 130, 1


@contextlib.contextmanager
def telling_how_to_go_on(command: str, experiment: Experiment) -> Iterator[None]:
    """If the person stops the block: prints the command that continues it, and where a training keeps its best state."""
    try:
        yield
    except (Cancelled, KeyboardInterrupt):
        status = last_written(experiment)
        if status is None or status.process != this_process():
            raise  # another process has the experiment, or the one that it was to replace is back
        root, usual = str(experiment.folder.parent), SETTINGS["output_root"].default
        where = [] if root == usual else ["--output_root", root]
        line = shlex.join(["python", "-m", "pruning", command, "--experiment_name", experiment.name, *where, "--resume"])
        if experiment.has(RECOVERY_FOLDER, "best"):
            print(f"The best state of the training so far is kept in {experiment.path(RECOVERY_FOLDER)}.", file=sys.stderr)
        print(f"Continue with: {line}", file=sys.stderr)
        raise


def exit_code(command: Callable[[list[str]], int], arguments: list[str] | None) -> int:
    """Runs a command with these arguments (default: the process's own); its exit code, faults as one sentence on stderr."""
    try:
        return command(sys.argv[1:] if arguments is None else arguments)
    except (Cancelled, KeyboardInterrupt):
        print("Stopped.", file=sys.stderr)
        return _STOPPED
    except PruningError as error:
        print(f"Error: {error}", file=sys.stderr)
        return _FAILED if error.code == "unexpected" else _USER_ERROR
