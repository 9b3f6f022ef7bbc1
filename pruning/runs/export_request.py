"""What a person wants exported. Imports no torch."""

from dataclasses import asdict, dataclass
from pathlib import Path

from ..errors import PruningError
from ..experiment import Experiment
from ..export.formats import FORMATS, PLAN, parse_formats, shard_bytes
from ..export.hub import check_repository
from ..planning.checkpoint_header import CheckpointHeader


@dataclass(frozen=True)
class ExportRequest:
    """What a person asked for: formats by name, the largest weight file of a folder, and where on the hub it goes."""

    formats: tuple[str, ...]
    max_shard_size: str = "5GB"
    repository: str | None = None
    private: bool = True

    def check(self, experiment: Experiment) -> None:
        """Raises PruningError for an unknown format, one that this model refuses or that is not uploaded, or an impossible name
        of a repository.
        """
        shard_bytes(self.max_shard_size)
        if self.repository:
            check_repository(self.repository)
        if not self.is_plan_alone:
            header = CheckpointHeader.read(saved_model(experiment))
            for name in self.formats:
                if self.repository and FORMATS[name].dtype:
                    raise PruningError("hub_number_format", name=name)
                FORMATS[name].refuse(header)

    @property
    def is_plan_alone(self) -> bool:
        """Whether only the plan is wanted, which needs no cut."""
        return self.formats == (PLAN,) and not self.repository

    @property
    def arguments(self) -> dict:
        """As a job is asked for it."""
        return asdict(self)

    @classmethod
    def of(cls, arguments: dict) -> "ExportRequest":
        """What a job was asked for; raises PruningError for a format that is none."""
        formats = parse_formats(",".join(arguments["formats"])) if arguments["formats"] else ()
        return cls(formats, arguments["max_shard_size"], arguments["repository"], arguments["private"])


def saved_model(experiment: Experiment) -> Path:
    """The checked model folder of an experiment; raises PruningError when there is none."""
    if not experiment.is_saved:
        raise PruningError("step_needs", step="export", needed="a cut")
    return experiment.model_folder
