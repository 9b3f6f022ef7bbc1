"""Where a model comes from: the embedded demo, a local folder, or the Hugging Face hub.

Finds and sizes up a model before any weight is read. Imports no torch, so that a page can call it.
"""

import re
from dataclasses import dataclass
from glob import escape
from pathlib import Path

from ..errors import PruningError, first_line
from ..planning.checkpoint_header import CheckpointHeader, listed_files, read_config, weight_order
from ..planning.shape import ModelShape

_TOKEN = re.compile(r"[!-~]+")  # what a header can carry

DEMO = "demo"
DEMO_FOLDER = Path(__file__).resolve().parents[2] / "assets" / "demo_model"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.\-]*(/[\w.\-]+)?")
_CONFIG_FILES = ["*.json", "tokenizer*", "*.model", "*.jinja", "LICENSE*", "NOTICE*", "USE_POLICY*", "merges.txt", "vocab.txt"]


@dataclass(frozen=True)
class ModelSummary:
    """What is known of a model before its weights are read. `weights_checked`: headers were compared with the config.

    `keeps_head`: the files hold an output head of their own, though the config says that it is tied.
    """

    name: str
    shape: ModelShape
    weight_bytes: int
    dtype: str | None
    weights_checked: bool
    keeps_head: bool = False


def local_folder(base_model: str, allowed_roots: tuple[Path, ...] | None = None) -> Path | None:
    """The folder that `base_model` names (`demo` is the embedded model), or None when it is a hub id.

    Raises PruningError for a path that is no folder, or is outside `allowed_roots` when these are given.
    """
    if base_model == DEMO:
        return DEMO_FOLDER
    try:
        path = Path(base_model).expanduser()
        looks_local = path.is_absolute() or base_model.startswith((".", "~")) or path.is_dir()
    except (RuntimeError, OSError, ValueError) as error:  # no such user, a name too long, a null byte
        raise PruningError("model_not_found", model=base_model) from error
    if not looks_local:
        if not _HUB_ID.fullmatch(base_model):
            raise PruningError("model_not_found", model=base_model)
        return None
    check_inside(path, allowed_roots)
    if not path.is_dir():
        raise PruningError("model_not_found", model=base_model)
    return path


def check_inside(path: Path, allowed_roots: tuple[Path, ...] | None) -> None:
    """Raises PruningError for a path outside the allowed roots; None allows any."""
    if allowed_roots is not None and not any(path.resolve().is_relative_to(root.resolve()) for root in allowed_roots):
        raise PruningError("path_outside_roots", path=path, roots=", ".join(map(str, allowed_roots)))


def summarize(base_model: str, token: str | None = None, allowed_roots: tuple[Path, ...] | None = None) -> ModelSummary:
    """Sizes of a model from its config and weight headers; of a hub model from its config and the hub's file list.

    Raises PruningError for anything that would keep the model from loading, as far as can be seen.
    """
    folder = local_folder(base_model, allowed_roots)
    if folder is not None:
        return _folder_summary(base_model, folder)
    try:
        return _hub_summary(base_model, token)
    except PruningError as error:
        if error.code != "hub_unreachable":
            raise
        return _folder_summary(base_model, fetch(base_model, token))  # in the cache, or unreachable


def _folder_summary(base_model: str, folder: Path) -> ModelSummary:
    header = CheckpointHeader.read(folder)
    header.check()
    return ModelSummary(base_model, header.shape, header.weight_bytes, header.dtype, bool(header.tensors), header.keeps_head)


def _hub_summary(base_model: str, token: str | None) -> ModelSummary:
    token = usable_token(token)
    info = _hub_call(base_model, lambda hub: hub.HfApi().model_info(base_model, files_metadata=True, token=token, timeout=20))
    folder = _snapshot(base_model, token, ["config.json"])
    config = read_config(folder)
    files = {f.rfilename: f.size or 0 for f in info.siblings}
    found = next((name for name in weight_order(config) if name in files), None)
    if found is None:
        raise PruningError("no_weights", folder=base_model)
    if found.endswith(".json"):
        folder = _snapshot(base_model, token, ["config.json", found])
    weights = listed_files(folder / found)
    if missing := sorted(set(weights) - files.keys()):
        raise PruningError("shard_missing", folder=base_model, file=missing[0])
    dtype = str(config.get("dtype") or config.get("torch_dtype") or "")
    return ModelSummary(base_model, ModelShape.from_config(config), sum(files[n] for n in weights), dtype or None, False)


def fetch(base_model: str, token: str | None = None, with_code: bool = False) -> Path:
    """The folder with config, tokenizer and weights; a hub model is downloaded into the hub's cache first.

    `with_code` brings the Python files of the model along, which run only where the person allowed it; without, none comes.
    """
    folder = local_folder(base_model)
    if folder is not None:
        return folder
    token = usable_token(token)
    files = [*_CONFIG_FILES, *(["*.py"] if with_code else [])]
    folder = _snapshot(base_model, token, files, with_code)
    # By name, not as *.safetensors: many repositories hold the same weights once more in another form.
    for name in weight_order(read_config(folder)):
        if not name.endswith(".json"):
            folder = _snapshot(base_model, token, [*files, escape(name)], with_code)
        if (folder / name).is_file():
            return _snapshot(base_model, token, [*files, *map(escape, listed_files(folder / name))], with_code)
    return folder


def _snapshot(base_model: str, token: str | None, patterns: list[str], with_code: bool = False) -> Path:
    ignored = ["*/*", *([] if with_code else ["*.py"])]  # `tokenizer*` would bring tokenizer_of_theirs.py too

    def download(hub):
        return hub.snapshot_download(base_model, allow_patterns=patterns, ignore_patterns=ignored, token=token)

    return Path(_hub_call(base_model, download))


def _hub_call(base_model: str, call):
    import huggingface_hub  # half a second; pages of local models never need it
    from huggingface_hub import errors

    try:
        return call(huggingface_hub)
    except errors.GatedRepoError as error:
        raise PruningError("hub_gated", model=base_model) from error
    except (errors.RepositoryNotFoundError, errors.HFValidationError) as error:
        raise PruningError("model_not_found", model=base_model) from error
    except (errors.HTTPError, OSError) as error:
        raise PruningError("hub_unreachable", model=base_model, reason=first_line(error)) from error


def usable_token(token: str | None) -> str | None:
    """The token without the white space around it, None for none; raises PruningError for what no header can carry."""
    token = (token or "").strip()
    if token and not _TOKEN.fullmatch(token):
        raise PruningError("hub_token_form")
    return token or None
