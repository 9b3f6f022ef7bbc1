"""Zero-shot tasks through lm-eval, where it is installed (requirements-eval.txt). Tasks by name, or from a local file.

hellaswag | tasks/mine.yaml | tasks/ (a folder of them)  ->  {"mine acc": 0.41, ...}
"""

import importlib.util
import os
from pathlib import Path
from typing import TYPE_CHECKING

from pruning.errors import PruningError, first_line

if TYPE_CHECKING:  # the command asks whether lm-eval is there, before torch takes its seconds
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_YAML = (".yaml", ".yml")


def require_lm_eval() -> None:
    """Raises PruningError, which says what to install, where lm-eval is not installed."""
    if importlib.util.find_spec("lm_eval") is None:
        raise PruningError("lm_eval_missing")


def zero_shot(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    tasks: list[str],
    batch_size: int = 8,
    limit: int | None = None,
) -> dict[str, float]:
    """Task and metric -> value, for task names of lm-eval, YAML files and folders of them; `limit` examples of each task.

    Raises PruningError when lm-eval is not installed, or for a task that it does not know or cannot load.
    """
    require_lm_eval()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    names, folders = _named(tasks)
    manager = TaskManager(include_path=folders or None, include_defaults=any(n not in _in_files(folders) for n in names))
    for name in names:
        if not manager.match_tasks([name]):
            raise PruningError("lm_eval_task", task=name, reason="lm-eval does not know it, and it is no file here")
    wrapped = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch_size, device=str(model.device))
    try:
        results = simple_evaluate(
            model=wrapped, tasks=names, task_manager=manager, limit=limit, bootstrap_iters=0, log_samples=False
        )["results"]
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise PruningError("lm_eval_task", task=", ".join(names), reason=first_line(error)) from error
    return {
        f"{task} {metric.split(',')[0]}": float(value)
        for task, values in results.items()
        for metric, value in values.items()
        if isinstance(value, int | float) and "stderr" not in metric and metric not in ("alias", "sample_len")
    }


def _named(tasks: list[str]) -> tuple[list[str], list[str]]:
    """Names of the tasks, and the folders in which lm-eval finds those that are files."""
    names, folders = [], []
    for task in tasks:
        path = Path(task).expanduser()
        if path.suffix in _YAML or path.is_dir():
            folder = path if path.is_dir() else path.parent
            folders.append(str(folder.resolve()))
            names += _in_files([folder]) if path.is_dir() else [_task_of(path)]
        else:
            names.append(task)
    return names, sorted(set(folders))


def _in_files(folders) -> list[str]:
    files = [file for folder in folders for suffix in _YAML for file in sorted(Path(folder).glob(f"*{suffix}"))]
    return [_task_of(file) for file in files]


def _task_of(file: Path) -> str:
    """The task that a YAML file describes."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise PruningError("lm_eval_task", task=str(file), reason=error.strerror or error) from error
    names = [line.partition(":")[2].strip().strip("'\"") for line in lines if line.startswith("task:")]
    if len(names) != 1 or not names[0]:
        raise PruningError("lm_eval_task", task=str(file), reason="it has no line `task: <name>`")
    return names[0]
