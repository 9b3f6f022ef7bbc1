"""The README.md of an exported model: where it comes from, what was cut, what that cost, how to load it.

Made from the files of an experiment alone; says only what they say. Knows nothing about torch.
"""

from pathlib import Path

from ..experiment import Experiment
from ..planning.checkpoint_header import read_config
from ..planning.plan import PruningPlan
from ..planning.shape import PRUNED_PREFIX, LayerShape

_BASES = {"model": "all parameters of the model", "selected": "the parameters of the layers that may be cut"}
_WHY_CODE = (
    "The layers differ in size, which stock classes cannot hold: `configuration_pruned.py` and `modeling_pruned.py` in this "
    "folder build them. So `trust_remote_code=True` is needed, and transformers 5.15 or newer."
)
_STAGES = {"before": "before the cut", "after": "after the cut", "repaired": "repaired", "recovered": "recovered"}


def model_card(experiment: Experiment) -> str:
    """Markdown with a Hugging Face header. Raises PruningError when settings or plan of the experiment cannot be read."""
    plan, metrics = experiment.read_plan(), experiment.metrics()
    settings = experiment.settings | plan.settings
    sections = [
        _header(settings),
        f"# {_base_name(settings)}, pruned",
        _summary(settings, plan, metrics),
        _perplexity(metrics),
        _how_to_load(experiment),
        _layers(plan),
    ]
    return "\n\n".join(filter(None, sections)) + "\n"


def _base_name(settings: dict) -> str:
    """A hub id as it is, `demo`, or the last part of a folder: where it lies on this machine is nobody's business."""
    name = str(settings["base_model"])
    is_local = name.startswith((".", "~")) or Path(name).is_absolute() or Path(name).is_dir()
    return Path(name).name if is_local else name


def _code(value: str | None) -> str | None:
    return f"`{value}`" if value else None


def _header(settings: dict) -> str:
    name = _base_name(settings)
    base = [f"base_model: {name}"] if name.count("/") == 1 else []
    return "\n".join(["---", "library_name: transformers", "pipeline_tag: text-generation", "tags:", "- pruned", *base, "---"])


def _summary(settings: dict, plan: PruningPlan, metrics: dict) -> str:
    ratio = metrics.get("ratio", {})
    target = ratio.get("target", settings.get("pruning_ratio"))
    basis = ratio.get("target_basis", settings.get("ratio_basis", "model"))
    before, after = plan.shape, plan.shape_after
    rows = [
        ("base model", f"`{_base_name(settings)}`"),
        ("strategy", _code(settings.get("strategy"))),
        ("importance", _code(settings.get("importance_method"))),
        ("ratio, target", f"{target:.2%} of {_BASES.get(basis, basis)}" if target is not None else None),
        ("ratio, actual", f"{ratio.get('actual', plan.actual_ratio):.2%} of {_BASES['model']}"),
        ("parameters", f"{before.parameters:,} before, {after.parameters:,} after"),
        ("attention groups", f"{_groups(before.layers):,} before, {_groups(after.layers):,} after"),
        ("MLP channels", f"{_channels(before.layers):,} before, {_channels(after.layers):,} after"),
        ("layers", f"{before.num_layers} before, {after.num_layers} after"),
        ("size of the weight files", _size(metrics.get("size_bytes", {}))),
    ]
    table = [f"| {name} | {value} |" for name, value in rows if value is not None]
    text = (
        "Whole attention groups (a KV head with its query heads) and whole MLP channels were removed: the matrices are smaller."
    )
    return "\n".join([text, "", "| | |", "| --- | --- |", *table])


def _groups(layers: tuple[LayerShape, ...]) -> int:
    return sum(layer.num_key_value_heads for layer in layers)


def _channels(layers: tuple[LayerShape, ...]) -> int:
    return sum(layer.intermediate_size for layer in layers)


def _size(size_bytes: dict) -> str | None:
    known = [f"{size_bytes[stage] / 2**30:.3f} GiB {stage}" for stage in ("before", "after") if size_bytes.get(stage)]
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
        rows.append(f"| {dataset} | " + " | ".join("-" if v is None else f"{v:.2f}" for v in values) + " |")
    head = "| dataset | " + " | ".join(_STAGES[stage] for stage in stages) + " |"
    return "\n".join(
        ["## Perplexity", "", _basis(metrics.get("basis", {})), "", head, "| --- |" + " --- |" * len(stages), *rows]
    )


def _basis(basis: dict) -> str:
    parts = [
        f"{basis[name]:,} {unit}" for name, unit in (("windows", "windows"), ("seq_len", "tokens each")) if basis.get(name)
    ]
    measured = f"Measured on {' of '.join(parts)}" if parts else "Measured"
    predicted = f", {basis['predicted_tokens']:,} predicted tokens" if basis.get("predicted_tokens") else ""
    return f"{measured}{predicted}; each window on its own."


def _how_to_load(experiment: Experiment) -> str:
    config = read_config(experiment.model_folder) if experiment.has("model", "config.json") else {}
    own_code = str(config.get("model_type")).startswith(PRUNED_PREFIX)
    trust = ", trust_remote_code=True" if own_code else ""
    why = _WHY_CODE if own_code else "All layers are of one size; stock classes load it."
    return f"""## How to load

{why}

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

folder = "path/to/this/folder"
tokenizer = AutoTokenizer.from_pretrained(folder{trust})
model = AutoModelForCausalLM.from_pretrained(folder{trust})
inputs = tokenizer("Once upon a time", return_tensors="pt")
print(tokenizer.decode(model.generate(**inputs, max_new_tokens=40)[0]))
```"""


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
