"""What a person allowed one run, in this app or on this command line. Imports no torch.

Handed on in memory alone. No file keeps it and none can give it: an experiment may come from a stranger, with whatever its
files say.
"""

import argparse
import os
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Permissions:
    """`token` opens gated models of the hub and uploads; `trust_remote_code`: the Python code of this run's model may run."""

    token: str | None = field(default=None, repr=False)
    trust_remote_code: bool = False

    @classmethod
    def of_this_command(cls, known: argparse.Namespace) -> "Permissions":
        """The token of the environment, and the consent of a flag of this command line, not of a file of settings."""
        return cls(os.environ.get("HF_TOKEN"), bool(getattr(known, "trust_remote_code", False)))
