"""How a command ends: 0 done, 2 for input the person can mend (one sentence says what), 130 stopped, 1 anything else."""

import sys
from collections.abc import Callable

from ..errors import Cancelled, PruningError

_USER_ERROR, _STOPPED, _FAILED = 2, 130, 1


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
