"""The README.md of an exported model: where it comes from, what was cut, what that cost, how to load it.

Made from the files of an experiment alone; says only what they say. Knows nothing about torch.
"""

from pathlib import Path

from ..experiment import Experiment
from ..planning.checkpoint_header import read_config
from ..planning.families import PRUNED_PREFIX
from ..planning.plan import TARGET_BASES, PruningPlan
from ..planning.shape import LayerShape
from ..settings import Settings, merged
from ..words import counted, readable_size
from .formats import FORMATS, HF, PLAN, SINGLE_FILES

_WHY_CODE = (
    "The layers differ in size, which stock classes cannot hold: `configuration_pruned.py` and `modeling_pruned.py` in this "
    "folder build them. So `trust_remote_code=True` is needed, and transformers 5.15 or newer."
)
_REPAIRED = "least squares on what stays of `o_proj` and `down_proj`"
_STAGES = {"before": "before the cut", "after": "after the cut", "repaired": "repaired", "recovered": "recovered"}


def model_card(experiment: Experiment, name: str = HF, place: str | None = None, beside: tuple[str, ...] = SINGLE_FILES) -> str:
    """Markdown with a Hugging Face header, for the folder of this format; `place` is its hub id once it goes there.

    Of the single files only those `beside` it are listed, if they were checked.

    Raises PruningError when settings or plan of the experiment cannot be read.
    """
    plan, metrics = experiment.read_plan(), experiment.metrics()
    settings = merged(experiment.settings, plan.settings)
    sections = [
        _header(settings),
        f"# {_code(_base_name(settings))}, pruned",
        _summary(settings, plan, metrics),
        _perplexity(metrics),
        _how_to_load(experiment, name, place, beside),
        _checks(metrics, (name, *beside) if place else tuple(FORMATS)),
        _layers(plan),
    ]
    return "\n\n".join(filter(None, sections)) + "\n"


def _base_name(settings: Settings) -> str:
    """A hub id as it is, `demo`, or the last part of a folder: where it lies on this machine is nobody's business."""
    name = str(settings.base_model)
    is_local = name.startswith((".", "~")) or Path(name).is_absolute() or Path(name).is_dir()
    return Path(name).name if is_local else name


def _code(value: str | None) -> str | None:
    """A name that a person gave, as code in a cell, so that no picture is fetched and no link made of it in the card."""
    return f"`{' '.join(value.split()).replace('`', 'ˋ').replace('|', chr(92) + '|')}`" if value else None


def _header(settings: Settings) -> str:
    name = _base_name(settings)
    base = [f"base_model: {name}"] if name.count("/") == 1 else []
    return "\n".join(["---", "library_name: transformers", "pipeline_tag: text-generation", "tags:", "- pruned", *base, "---"])


def _summary(settings: Settings, plan: PruningPlan, metrics: dict) -> str:
    ratio = metrics.get("ratio", {})
    target = ratio.get("target", settings.pruning_ratio)
    basis = ratio.get("target_basis", settings.ratio_basis)
    before, after = plan.shape, plan.shape_after
    rows = [
        ("base model", _code(_base_name(settings))),
        ("strategy", _code(plan.settings.get("strategy", "chosen by hand, from a file"))),
        ("importance", _code(settings.importance_method) if "strategy" in plan.settings else None),
        ("ratio, target", f"{target:.2%} of {TARGET_BASES.get(basis, basis)}" if target is not None else None),
        ("ratio, actual", f"{ratio.get('actual', plan.actual_ratio):.2%} of {TARGET_BASES['model']}"),
        ("parameters", f"{before.parameters:,} before, {after.parameters:,} after"),
        ("attention groups", f"{_groups(before.layers):,} before, {_groups(after.layers):,} after"),
        ("MLP channels", f"{_channels(before.layers):,} before, {_channels(after.layers):,} after"),
        ("layers", f"{before.num_layers} before, {after.num_layers} after"),
        ("repair", _REPAIRED if metrics.get("repair") else None),
        ("recovery", _recovered(metrics.get("recovery"))),
        ("size of the weight files", _size(metrics.get("size_bytes", {}))),
    ]
    table = [f"| {name} | {value} |" for name, value in rows if value is not None]
    text = (
        "Whole attention groups (a KV head with its query heads) and whole MLP channels were removed: the matrices are smaller."
    )
    return "\n".join([text, "", "| | |", "| --- | --- |", *table])


def _recovered(recovery: dict | None) -> str | None:
    """How the cut model was trained; None where it was not."""
    if not recovery:
        return None
    distilled = ", distilled from the unpruned model" if recovery["distill_weight"] else ""
    return f"{recovery['method']}, {counted(recovery['steps'], 'step')} of {recovery['tokens_per_step']:,} tokens{distilled}"


def _groups(layers: tuple[LayerShape, ...]) -> int:
    return sum(layer.num_key_value_heads for layer in layers)


def _channels(layers: tuple[LayerShape, ...]) -> int:
    return sum(layer.intermediate_size for layer in layers)


def _size(size_bytes: dict) -> str | None:
    known = [f"{readable_size(size_bytes[stage])} {stage}" for stage in ("before", "after") if size_bytes.get(stage)]
    return ", ".join(known) or None


def _perplexity(metrics: dict) -> str | None:
    perplexity = metrics.get("perplexity", {})
    datasets = list(dict.fromkeys(key for stage in _STAGES for key in perplexity.get(stage, {})))
    stages = [stage for stage in _STAGES if perplexity.get(stage)]
    if not stages:
        return None
    rows = []
    for dataset in datasets:
        values = [perplexity[stage].get(dataset) for stage in stages]
        rows.append(f"| {_code(dataset)} | " + " | ".join("-" if v is None else f"{v:.2f}" for v in values) + " |")
    head = "| dataset | " + " | ".join(_STAGES[stage] for stage in stages) + " |"
    return "\n".join(
        ["## Perplexity", "", _basis(metrics.get("basis", {})), "", head, "| --- |" + " --- |" * len(stages), *rows]
    )


def _basis(basis: dict) -> str:
    nouns = (("windows", "window", "windows"), ("seq_len", "token each", "tokens each"))
    parts = [counted(basis[name], one, more) for name, one, more in nouns if basis.get(name)]
    measured = f"Measured on {' of '.join(parts)}" if parts else "Measured"
    predicted = f", {counted(basis['predicted_tokens'], 'predicted token')}" if basis.get("predicted_tokens") else ""
    return f"{measured}{predicted}; each window on its own."


def _how_to_load(experiment: Experiment, name: str, place: str | None, beside: tuple[str, ...]) -> str:
    saved = experiment.model_folder  # every number format has its code
    config = read_config(saved) if (saved / "config.json").is_file() else {}
    own_code = str(config.get("model_type")).startswith(PRUNED_PREFIX)
    why = _WHY_CODE if own_code else "All layers are of one size; stock classes load it."
    where = "" if place else f" Run this beside the folder `{FORMATS[name].folder}`:"
    parts = [f"## How to load\n\n{why}{where}", _python(FORMATS[name].sample_code(own_code, place))]
    for other in (FORMATS[name] for name in _checked(experiment, beside)):
        parts += [f"`{other.file}`{other.reader}:", _python(other.sample_code())]
    return "\n\n".join(parts)


def _checked(experiment: Experiment, names: tuple[str, ...]) -> list[str]:
    """Those of the formats that were made of the model and checked."""
    known = experiment.metrics().get("export_check", {})
    return [name for name in names if known.get(name)]


def _python(code: str) -> str:
    return f"```python\n{code}```"


def _checks(metrics: dict, names: tuple[str, ...]) -> str | None:
    """What loading each of these formats again in a fresh process gave, beside the model in memory."""
    known = metrics.get("export_check", {}).items()
    found = {name: check for name, check in known if check and name in names and name != PLAN}
    if not found:
        return None
    rows = [f"| `{name}` | {_check_cells(check)} |" for name, check in found.items()]
    head = "| format | largest difference of logits | top-1 agreement | llama.cpp |\n| --- | --- | --- | --- |"
    told = "Each format was loaded again in a fresh process and compared with the cut model, in float32 on 4 windows."
    return "\n".join(["## Checks", "", told, "", head, *rows])


def _check_cells(check: dict) -> str:
    if check.get("max_abs_diff") is None:
        return "not loaded: names, shapes and sizes agree | - | -"
    found = check.get("llama_cpp")
    words = f"{found['equal']} of {found['tokens']} greedy tokens equal" if found else "-"
    return f"{check['max_abs_diff']:.1e} | {check['top1']:.2%} | {words}"


def _layers(plan: PruningPlan) -> str:
    rows = []
    for index, (before, after) in enumerate(zip(plan.shape.layers, plan.resized_layers, strict=True)):
        if index not in plan.kept_layers:
            rows.append(f"| {index} | deleted | deleted |")
            continue
        channels = f"{after.intermediate_size:,} of {before.intermediate_size:,}"
        rows.append(f"| {index} | {_heads(after)} of {_heads(before)} | {channels} |")
    head = ["| layer (of the base model) | query / KV heads kept | MLP channels kept |", "| --- | --- | --- |"]
    return "\n".join(["## What was cut", "", *head, *rows])


def _heads(layer: LayerShape) -> str:
    return f"{layer.num_attention_heads} / {layer.num_key_value_heads}"
