"""The files of a model that a person names, read without loading a weight.

    demo | folder | pytorch_model.bin | experiment  ->  ModelFiles: config, header of every tensor, bytes by sort of file

Knows nothing about torch: shapes come from safetensors headers, from the list of tensors in a .bin, or from a config alone.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from math import prod
from pathlib import Path

from pruning.errors import PruningError
from pruning.experiment import Experiment
from pruning.files import read_json
from pruning.model.model_source import DEMO, DEMO_FOLDER, local_folder
from pruning.planning.bin_header import read_bin_header
from pruning.planning.checkpoint_header import (
    BIN_FILE,
    BYTES_PER_PARAMETER,
    ROTARY_BUFFER,
    TIED_HEAD,
    CheckpointHeader,
    TensorHeader,
    read_config,
)
from pruning.planning.shape import ModelShape

_BIN_SUFFIXES = (".bin", ".pt", ".pth")
_TOKENIZER_FILES = ("tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt", "*.model")


@dataclass(frozen=True)
class ModelFiles:
    """A model as a person named it. Bytes are those on disk; `weight_bytes` counts weight files only."""

    name: str
    header: CheckpointHeader
    fingerprint: str | None
    weight_bytes: int
    tokenizer_bytes: int = 0
    other_bytes: int = 0

    @cached_property
    def shape(self) -> ModelShape | None:
        """The shape its config gives; None for a .bin without one."""
        return self.header.shape if self.header.config else None

    @property
    def parameters(self) -> int:
        """Parameters of the files; a tied head and stored rotary tables count no parameter."""
        tied = {TIED_HEAD} if self.shape and self.shape.tie_word_embeddings else set()
        counted = (t for name, t in self.header.tensors.items() if name not in tied and not name.endswith(ROTARY_BUFFER))
        return sum(prod(tensor.shape) for tensor in counted if not tensor.is_alias)

    @property
    def bytes_per_parameter(self) -> int:
        """Of the dtype most tensors have; 2 where it is not known."""
        return BYTES_PER_PARAMETER.get(self.header.dtype, 2)


def open_files(model: str, output_root: str | Path) -> ModelFiles:
    """The model that `demo`, a folder, a .bin file or an experiment's name stands for; raises PruningError."""
    experiment = experiment_named(model, output_root)
    if experiment is not None:
        return replace(_of_experiment(experiment), name=model)
    path = Path(model).expanduser()
    if model == DEMO:
        return replace(_of_folder(DEMO_FOLDER), name=DEMO)
    return _of_bin(path) if path.is_file() else _of_folder(path)


def experiment_named(model: str, output_root: str | Path) -> Experiment | None:
    """The experiment that a person means by a model's name; None for `demo`, a model folder or a .bin. Raises PruningError."""
    path = Path(model).expanduser()
    is_bin = path.is_file() and path.suffix in _BIN_SUFFIXES
    if model == DEMO or is_bin or (path.is_dir() and not (path / "description.txt").is_file()):
        return None
    return open_experiment(model, output_root)


def folder_to_load(model: str, output_root: str | Path) -> str:
    """What a loader opens for the model that a person named: a folder, or a Hugging Face id as it is. Raises PruningError."""
    try:
        header = open_files(model, output_root).header
        if Path(model).is_file() and CheckpointHeader.read(header.folder).weight_files != header.weight_files:
            raise PruningError("analysis_other_weights", file=model, folder=header.folder)
        return str(header.folder)
    except PruningError as error:
        if error.code != "analysis_model" or local_folder(model) is not None or "/" not in model:
            raise
        return model


def open_experiment(name: str, output_root: str | Path) -> Experiment:
    """The experiment of this name under the root, or in the folder of this name; raises PruningError."""
    folder = Path(name).expanduser()
    if (folder / "description.txt").is_file():
        return Experiment(folder)
    if folder.name != name or not (Path(output_root) / name / "description.txt").is_file():
        raise PruningError("analysis_model", model=name, root=output_root)
    return Experiment.open(output_root, name)


def source_of(experiment: Experiment) -> ModelFiles:
    """The model before the cut, as `description.txt` recorded it; its own folder is not needed."""
    description = experiment.description()
    if "model" not in description:
        raise PruningError("step_needs", step="analysis", needed="a model that was opened")
    model = description["model"]
    name = str(experiment.settings.base_model)
    header = _predicted(ModelShape.from_config(model["config"]), model["config"], model["dtype"])
    return ModelFiles(name, header, description["fingerprint"], model["bytes"])


def from_config(config_file: str | Path) -> ModelFiles:
    """What a config.json alone says; no weight file is needed."""
    path = Path(config_file).expanduser()
    if path.is_dir():
        path = path / "config.json"
    if not path.is_file():
        raise PruningError("file_missing", path=path)
    config = read_json(path, None)
    bare = CheckpointHeader(path.parent, config, {}, ())
    header = _predicted(bare.shape, config, bare.dtype or "BF16")
    return ModelFiles(str(config_file), header, None, sum(t.end for t in header.tensors.values()))


def _of_folder(folder: Path) -> ModelFiles:
    bare = CheckpointHeader.read(folder)
    header = bare
    if not bare.tensors:
        tensors: dict[str, TensorHeader] = {}
        for file in bare.weight_files:
            tensors |= read_bin_header(file)
        header = replace(bare, tensors=tensors)
    files = [file for file in folder.iterdir() if file.is_file() and file not in bare.weight_files]
    tokenizer = {file for pattern in _TOKENIZER_FILES for file in folder.glob(pattern)}
    return ModelFiles(
        str(folder),
        header,
        bare.fingerprint,  # of the .bin itself where there is nothing else: as measuring and planning see it
        bare.weight_bytes,
        sum(file.stat().st_size for file in files if file in tokenizer),
        sum(file.stat().st_size for file in files if file not in tokenizer),
    )


def _of_bin(file: Path) -> ModelFiles:
    config = read_config(file.parent) if (file.parent / "config.json").is_file() else {}
    header = CheckpointHeader.of(file.parent, config, read_bin_header(file), (file,))
    return ModelFiles(str(file), header, None, header.weight_bytes)


def _of_experiment(experiment: Experiment) -> ModelFiles:
    if experiment.is_saved:
        return _of_folder(experiment.model_folder)
    if experiment.has(BIN_FILE):
        return _of_bin(experiment.path(BIN_FILE))
    raise PruningError("analysis_no_model", name=experiment.name)


def _predicted(shape: ModelShape, config: dict, dtype: str | None) -> CheckpointHeader:
    width = BYTES_PER_PARAMETER.get(dtype, 2)
    tensors = {n: TensorHeader(dtype or "BF16", s, Path(), 0, prod(s) * width) for n, s in shape.tensor_shapes().items()}
    return CheckpointHeader(Path(), config, tensors, ())
