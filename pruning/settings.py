"""Every parameter once, as a field of `Settings`: name, type, default, unit, range, help, old names.

    Settings  --fields-->  SETTINGS: name -> Setting  -->  flags, widgets, table of the README
    a file, flags: {name: value}  --resolve-->  Settings  --as_dict-->  description.txt

Old names are still accepted; `canonical` says which name to use now. Knows nothing about models.
"""

import dataclasses
import difflib
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, cast, get_args

from .errors import PruningError
from .methods import IMPORTANCE_METHODS, LAYER_METHODS
from .strategies import DEFAULT_STRATEGY, STRATEGIES
from .words import FORMATTER

# What a value must be, in words.
EXPECTED = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "str": "text",
    "minimum": "at least {limit}",
    "above": "above {limit}",
    "maximum": "at most {limit}",
    "below": "below {limit}",
    "both": "{lower} and {upper}",
    "within": "{noun} {bounds}",
}


def _english(key: str, **values) -> str:
    return FORMATTER.format(EXPECTED[key.removeprefix("expected.")], **values)


@dataclass(frozen=True)
class Setting:
    """One parameter. `kind` is the type a value is turned into; `above` and `below` are open bounds."""

    name: str
    default: Any
    kind: type
    group: str
    help: str
    unit: str = ""
    minimum: float | None = None
    maximum: float | None = None
    above: float | None = None
    below: float | None = None
    choices: tuple[str, ...] = ()
    parts: tuple[str, ...] = ()  # text joined by commas: what each part may be
    old_names: tuple[str, ...] = ()
    commands: tuple[str, ...] = ()  # of the command line; empty: all

    @property
    def flag(self) -> str:
        return f"--{self.name}"

    @property
    def bounds(self) -> str:
        """The range of a number in words; empty where any will do."""
        return self._bounds_by(_english)

    @property
    def expected(self) -> str:
        """What a value must be, in words."""
        return self.expected_by(_english)

    def expected_by(self, t: Callable[..., str]) -> str:
        """The same in the words of `t`, which knows the keys `expected.` and those of EXPECTED behind it."""
        noun, bounds = t(f"expected.{self.kind.__name__}"), self._bounds_by(t)
        return t("expected.within", noun=noun, bounds=bounds) if bounds else noun

    def _bounds_by(self, t: Callable[..., str]) -> str:
        lower, upper = (
            next((t(f"expected.{bound}", limit=limit) for bound in pair if (limit := getattr(self, bound)) is not None), "")
            for pair in (("minimum", "above"), ("maximum", "below"))
        )
        return t("expected.both", lower=lower, upper=upper) if lower and upper else lower or upper

    def parse(self, value):
        """The value in its type; raises PruningError naming the setting, the value seen and what it must be."""
        if value is None:
            return None
        parsed = self._convert(value)
        if self.choices and parsed not in self.choices:
            raise PruningError("setting_choice", name=self.name, value=value, choices=", ".join(self.choices))
        if self.parts and (unknown := [part for part in parts_of(parsed) if part not in self.parts]):
            raise PruningError("setting_part", name=self.name, part=unknown[0], choices=", ".join(self.parts))
        if self.kind in (int, float) and not self._in_range(parsed):
            raise PruningError("setting_range", name=self.name, value=value, expected=self.expected)
        return parsed

    def _convert(self, value):
        try:
            if self.kind is bool:
                return {"true": True, "false": False}[str(value).lower()]
            if self.kind is int and (isinstance(value, bool) or float(value) != int(float(value))):
                raise ValueError
            return int(float(value)) if self.kind is int else self.kind(value)
        except (ValueError, KeyError, TypeError, OverflowError) as error:
            raise PruningError("setting_type", name=self.name, value=value, expected=self.expected) from error

    def _in_range(self, value: float) -> bool:
        return (
            math.isfinite(value)
            and (self.minimum is None or value >= self.minimum)
            and (self.maximum is None or value <= self.maximum)
            and (self.above is None or value > self.above)
            and (self.below is None or value < self.below)
        )


def setting(default: Any, group: str, help: str, **more: Any) -> Any:
    """A field of `Settings`; `more` are the other fields of its `Setting`. Name and kind are those of the field."""
    return dataclasses.field(default=default, metadata={"group": group, "help": help} | more)


def parts_of(value: str) -> tuple[str, ...]:
    """The parts of a text that are joined by commas."""
    return tuple(part.strip() for part in value.split(",") if part.strip())


_CUTTING = (*STRATEGIES, "apply")
_PROMPT = "def is_prime(n):\n    if n < 2:\n        return False\n    for i in range("
GROUPS = ("model", "calibration", "importance", "plan", "recovery", "evaluation", "output")
_RECOVERY_COMMANDS = (*_CUTTING, "recover")
LORA_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Every setting with its value, as a run has it. `dataclasses.replace` gives the same with others.

    `base_model` is None until a command has made sure that one is named.
    """

    strategy: str = DEFAULT_STRATEGY  # how a plan is made: the command says it

    # model
    base_model: str = setting(None, "model", "The model to prune: demo, a local folder, or a Hugging Face id (owner/name).")
    device: str = setting("auto", "model", "Where to compute: auto, cpu, cuda, or cuda:N. auto takes a GPU when there is one.")
    dtype: str = setting(
        "auto",
        "model",
        "Number format while computing: auto is float32 on CPU and bfloat16 on GPU.",
        choices=("auto", "float32", "bfloat16", "float16"),
    )
    attn_implementation: str = setting(
        "auto",
        "model",
        "Attention code: auto takes sdpa, but eager for small heads in half precision on CPU (faster there).",
        choices=("auto", "eager", "sdpa"),
    )
    trust_remote_code: bool = setting(False, "model", "Allow a model to run the Python code it brings; no file can allow it.")
    head_dim: int | None = setting(
        None, "model", "Size of a head, if you want it checked; it is read from the model.", minimum=1
    )
    gqa_ratio: int | None = setting(
        None, "model", "Query heads per KV head, if you want it checked; it is read from the model.", minimum=1
    )

    # calibration
    corpus: str = setting(
        "python-stdlib",
        "calibration",
        "Calibration text: python-stdlib, wikitext2, c4, a dataset id, or a .txt / .jsonl / .parquet file.",
    )
    text_column: str = setting("text", "calibration", "Column of a dataset or file that holds the text.")
    num_samples: int = setting(
        128,
        "calibration",
        "Calibration windows: 10-20 for a quick look, 128 standard, 256-512 careful.",
        unit="samples",
        minimum=1,
        old_names=("head_importance_samples", "num_examples"),
    )
    seq_len: int = setting(
        128,
        "calibration",
        "Length of a calibration window.",
        unit="tokens",
        minimum=2,
        old_names=("taylor_seq_len", "max_seq_len"),
    )
    gradient_batch_size: int = setting(
        8, "calibration", "Windows per batch; lower it when memory runs out.", unit="samples", minimum=1
    )
    seed: int = setting(0, "calibration", "Seed of the choice of windows.", minimum=0, maximum=2**31 - 1)

    # importance
    importance_method: str = setting(
        "taylor",
        "importance",
        "How the importance of a group is measured: by gradients, activations, or weights alone.",
        choices=tuple(IMPORTANCE_METHODS),
        old_names=("pruner_type",),
    )
    layer_importance_method: str = setting(
        "removal",
        "importance",
        "How the importance of a whole layer is measured.",
        choices=tuple(LAYER_METHODS),
    )
    layer_importance_samples: int = setting(
        50,
        "importance",
        "Calibration windows for the importance of layers; 0 skips it.",
        unit="samples",
        minimum=0,
        old_names=("importance_samples",),
    )
    layer_importance_config: str | None = setting(
        None,
        "importance",
        "A layer_importance_config.json of this model to reuse instead of measuring layers.",
        old_names=("importance_config",),
    )

    # plan
    pruning_ratio: float = setting(
        0.25,
        "plan",
        "Share of parameters to remove: 0.15-0.2 cautious, 0.2-0.3 standard, 0.3-0.4 aggressive.",
        unit="share",
        above=0,
        below=1,
    )
    ratio_basis: str = setting(
        "model",
        "plan",
        "What the ratio refers to: all parameters of the model, or those of the layers that may be cut (selected).",
        choices=("model", "selected"),
    )
    layer_start: int | None = setting(
        None, "plan", "First layer that is measured and may be cut; replaces block_*.", unit="layer", minimum=0
    )
    layer_end: int | None = setting(
        None, "plan", "Layer before which measuring and cutting end; replaces block_*.", unit="layer", minimum=1
    )
    block_attention_layer_start: int | None = setting(
        None, "plan", "First layer whose attention may be cut.", unit="layer", minimum=0
    )
    block_attention_layer_end: int | None = setting(
        None, "plan", "Layer before which cutting of attention ends.", unit="layer", minimum=1
    )
    block_mlp_layer_start: int | None = setting(None, "plan", "First layer whose MLP may be cut.", unit="layer", minimum=0)
    block_mlp_layer_end: int | None = setting(None, "plan", "Layer before which cutting of MLPs ends.", unit="layer", minimum=1)
    protected_layers: str = setting(
        "", "plan", "More layers that stay whole, as 0-2,17,30-31 (inclusive, zero-based); none lifts all protection."
    )
    pruning_distribution: str = setting(
        "auto", "plan", "Attention:MLP shares of what is removed, as 2:8; auto (global only) lets the scores decide."
    )
    freeze_top_n_layers: int = setting(
        0, "plan", "Also protect this many of the most important layers.", unit="layers", minimum=0
    )
    pruning_strategy: str = setting(
        "inverse",
        "plan",
        "Rates of layers: uniform, inverse (important layers lose less) or proportional to importance.",
        choices=("uniform", "inverse", "proportional"),
    )
    importance_weight: float = setting(
        1.0, "plan", "How strongly rates follow importance; 0 makes them equal.", minimum=0, maximum=10, old_names=("alpha",)
    )
    layer_min_pruning_rate: float = setting(
        0.15, "plan", "Least rate of a layer.", unit="share", minimum=0, maximum=1, old_names=("min_pruning_rate",)
    )
    layer_max_pruning_rate: float = setting(
        0.5, "plan", "Largest rate of a layer.", unit="share", minimum=0, maximum=1, old_names=("max_pruning_rate",)
    )
    match_target: bool = setting(
        False, "plan", "Raise the rates of unprotected layers until the whole model reaches the ratio."
    )
    mlp_multiple: int = setting(
        1, "plan", "Round the kept MLP width up to a multiple; 64, 128, 256 suit hardware.", unit="channels", minimum=1
    )
    prune_attention: bool = setting(True, "plan", "Cut attention groups; without it a split must be 0:10.")
    prune_mlp: bool = setting(True, "plan", "Cut MLP channels; without it a split must be 10:0.")
    min_kv_groups: int = setting(1, "plan", "Attention groups that stay in each layer.", unit="groups", minimum=1)
    min_mlp_channels: int = setting(1, "plan", "MLP channels that stay in each layer.", unit="channels", minimum=1)
    remove_empty_layers: bool = setting(
        False, "plan", "Lift both floors, and delete layers that end up with neither attention nor MLP."
    )
    keep_groups: str = setting(
        "",
        "plan",
        "Groups kept by hand whatever the strategy says, as 3a1,5m20-29: attention group 1 of layer 3, MLP channels 20 to 29 "
        "of layer 5.",
    )
    cut_groups: str = setting("", "plan", "Groups cut by hand, named as in keep_groups; protection does not keep them.")
    groups: str | None = setting(None, "plan", "A CSV like groups_to_prune.csv: exactly its rows are cut.", commands=("apply",))
    table: str | None = setting(
        None,
        "plan",
        "A CSV like global_group_table.csv, which may be edited: rows that are missing stay, its scores rank.",
        commands=("apply",),
    )
    plan: str | None = setting(None, "plan", "A plan.json: exactly this plan is cut.", commands=("apply",))
    iterative_steps: int = setting(
        1,
        "plan",
        "Rounds of cutting: an equal share of the parameters goes in each, and what is left is measured again; 1 cuts at once.",
        unit="rounds",
        minimum=1,
        commands=tuple(STRATEGIES),
    )

    # recovery
    reconstruct: bool = setting(
        False,
        "recovery",
        "Repair the cut model without training: new weights for what stays of o_proj and down_proj (least squares).",
        commands=_RECOVERY_COMMANDS,
    )
    reconstruct_tokens: int = setting(
        65536, "recovery", "Calibration tokens for the repair.", unit="tokens", minimum=1, commands=_RECOVERY_COMMANDS
    )
    finetune: bool = setting(False, "recovery", "Train the cut model to win quality back.", commands=_RECOVERY_COMMANDS)
    finetune_method: str = setting(
        "lora",
        "recovery",
        "Train small added matrices that are merged at the end (lora), or every weight (full).",
        choices=("lora", "full"),
        commands=_RECOVERY_COMMANDS,
    )
    finetune_corpus: str | None = setting(
        None,
        "recovery",
        "Training text, named as corpus is, or instructions (dataset id, .json or .jsonl file with the columns instruction, "
        "input and output), of which only answers are learned; by default the calibration text.",
        commands=_RECOVERY_COMMANDS,
    )
    finetune_samples: int = setting(
        500,
        "recovery",
        "Training windows, or instructions: 500 below a ratio of 0.2, 1000 to 0.3, 2000 above.",
        unit="samples",
        minimum=1,
        commands=_RECOVERY_COMMANDS,
    )
    finetune_seq_len: int | None = setting(
        None,
        "recovery",
        "Length of a training window; by default seq_len.",
        unit="tokens",
        minimum=2,
        commands=_RECOVERY_COMMANDS,
    )
    finetune_lr: float | None = setting(
        None, "recovery", "Learning rate; by default 1e-4 for lora and 1e-5 for full.", above=0, commands=_RECOVERY_COMMANDS
    )
    finetune_epochs: float = setting(
        1.0, "recovery", "Passes over the training text.", unit="epochs", above=0, commands=_RECOVERY_COMMANDS
    )
    finetune_steps: int = setting(
        0,
        "recovery",
        "Training steps; above 0 it replaces finetune_epochs.",
        unit="steps",
        minimum=0,
        commands=_RECOVERY_COMMANDS,
    )
    finetune_batch_size: int = setting(
        8,
        "recovery",
        "Windows per batch; lower it when memory runs out.",
        unit="samples",
        minimum=1,
        commands=_RECOVERY_COMMANDS,
    )
    finetune_accumulation: int = setting(
        1,
        "recovery",
        "Batches whose gradients are added up for one step.",
        unit="batches",
        minimum=1,
        commands=_RECOVERY_COMMANDS,
    )
    finetune_warmup: float = setting(
        0.05,
        "recovery",
        "Share of the steps in which the learning rate rises.",
        unit="share",
        minimum=0,
        maximum=1,
        commands=_RECOVERY_COMMANDS,
    )
    finetune_eval_steps: int = setting(
        20,
        "recovery",
        "Steps between two measurements of perplexity; the best state is kept.",
        unit="steps",
        minimum=1,
        commands=_RECOVERY_COMMANDS,
    )
    finetune_max_rise: float = setting(
        2.0,
        "recovery",
        "Training stops when its loss is this many times the first loss.",
        above=1,
        commands=_RECOVERY_COMMANDS,
    )
    gradient_checkpointing: bool = setting(
        False,
        "recovery",
        "Compute activations twice instead of keeping them: less memory, a third more time.",
        commands=_RECOVERY_COMMANDS,
    )
    lora_r: int = setting(8, "recovery", "Rank of the added matrices, usually 4-16.", minimum=1, commands=_RECOVERY_COMMANDS)
    lora_alpha: int = setting(
        16, "recovery", "Strength of the added matrices, usually twice lora_r.", minimum=1, commands=_RECOVERY_COMMANDS
    )
    lora_dropout: float = setting(
        0.0,
        "recovery",
        "Share of inputs of the added matrices that are dropped at random.",
        unit="share",
        minimum=0,
        below=1,
        commands=_RECOVERY_COMMANDS,
    )
    lora_targets: str = setting(
        ",".join(LORA_TARGETS),
        "recovery",
        "Matrices that get added ones, joined by commas.",
        parts=LORA_TARGETS,
        commands=_RECOVERY_COMMANDS,
    )
    distill_weight: float = setting(
        0.0,
        "recovery",
        "Share of the loss that compares with the predictions of the model before the cut; 0 leaves it out.",
        unit="share",
        minimum=0,
        maximum=1,
        commands=_RECOVERY_COMMANDS,
    )
    distill_temperature: float = setting(
        2.0, "recovery", "Above 1, less likely tokens count more in that comparison.", above=0, commands=_RECOVERY_COMMANDS
    )

    # evaluation
    test_before_prune: bool = setting(
        False,
        "evaluation",
        "Measure perplexity of the model before the cut; without pruning_ratio, a strategy does this and nothing else.",
        commands=_CUTTING,
    )
    test_after_prune: bool = setting(False, "evaluation", "Measure perplexity of the cut model.", commands=_CUTTING)
    eval_corpus: str = setting("python-stdlib", "evaluation", "Held-out text for perplexity; named as corpus is.")
    eval_seq_len: int = setting(128, "evaluation", "Length of a perplexity window.", unit="tokens", minimum=2)
    eval_windows: int = setting(
        256, "evaluation", "Perplexity windows, spread evenly over the text; 0 takes all.", unit="windows", minimum=0
    )
    prompt: str = setting(_PROMPT, "evaluation", "Both models continue this text.")

    # output
    experiment_name: str | None = setting(
        None,
        "output",
        "Folder of the experiment; default: model, strategy, ratio and time joined by '-'.",
        old_names=("save_ckpt_log_name",),
    )
    output_root: str = setting("prune_log", "output", "Folder that holds the experiments.")
    overwrite: bool = setting(
        False,
        "output",
        "Replace an experiment of the same name; it is restored if the run fails before it made anything. `recover`: give up a "
        "training that was stopped.",
    )
    resume: bool = setting(False, "output", "Continue an experiment that was stopped, from its last finished step.")
    dry_run: bool = setting(False, "output", "Show what the plan would give, and the memory and disk it takes; change nothing.")
    save_table_path: str | None = setting(
        None,
        "output",
        "Also write the group table to this .csv or .json, for a person to edit and `apply` to read.",
        commands=("importance", *STRATEGIES),
    )
    save_model: bool = setting(
        False, "output", "Save the cut model as a Hugging Face folder, checked by loading it again.", commands=_CUTTING
    )
    save_format: str = setting(
        "hf",
        "output",
        "What else to make of the saved model, joined by commas: hf, bin, gguf, or any format of `export`.",
        commands=_CUTTING,
    )
    save_dtype: str = setting(
        "auto",
        "output",
        "Number format of the saved weights; auto is that of the model's files.",
        choices=("auto", "float32", "bfloat16", "float16"),
        commands=_CUTTING,
    )
    max_shard_size: str = setting(
        "5GB", "output", "Largest weight file of the saved folder, as 5GB or 500MB; a larger model is split.", commands=_CUTTING
    )
    stream: bool = setting(
        False,
        "output",
        "Cut from file to file, one tensor at a time: no model in memory, and nothing is evaluated.",
        commands=("apply",),
    )

    def as_dict(self) -> dict[str, Any]:
        """By name, as files keep them."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def of(self, names: Iterable[str]) -> dict[str, Any]:
        """Those of these names."""
        return {name: getattr(self, name) for name in names}


def _described(field: dataclasses.Field) -> Setting:
    kind = next((kind for kind in get_args(field.type) if kind is not type(None)), field.type)  # int, of `int | None`
    return Setting(field.name, field.default, cast(type, kind), **field.metadata)


SETTINGS: dict[str, Setting] = {field.name: _described(field) for field in fields(Settings) if field.metadata}
_OLD_NAMES = {old: setting.name for setting in SETTINGS.values() for old in setting.old_names}


# Where a run goes and how it is started; they say nothing of its result.
OF_THE_FOLDER = ("experiment_name", "output_root", "overwrite", "resume", "dry_run")
# What only the person may decide, on this command line or in this app: it is never written to a file or read from one.
OF_THE_PERSON = ("trust_remote_code",)
PLAN_SETTINGS = tuple(name for name, setting in SETTINGS.items() if setting.group == "plan" and not setting.commands)


def plan_settings(settings: Settings) -> dict[str, Any]:
    """The settings that decide a plan, and no others."""
    return settings.of(("strategy", *PLAN_SETTINGS))


def canonical(name: str) -> str:
    """The current name of a setting; raises PruningError with the nearest name for one that never existed."""
    name = _OLD_NAMES.get(name, name)
    if name not in SETTINGS:
        nearest = difflib.get_close_matches(name, [*SETTINGS, *_OLD_NAMES], n=1)
        raise PruningError("setting_unknown", name=name, suggestion=f" (did you mean `{nearest[0]}`?)" if nearest else "")
    return name


def resolve(given: Mapping[str, Any], strategy: str = DEFAULT_STRATEGY) -> Settings:
    """Every setting with its value: those in `given` (old names too) checked and typed, the others at their default.

    `strategy` is recorded, and brings its own defaults. Raises PruningError for an unknown name, a value out of range, or
    one setting under two names with two values.
    """
    values: dict[str, Any] = {}
    for name, raw in given.items():
        setting = SETTINGS[canonical(name)]
        value = setting.parse(raw)
        if values.get(setting.name, value) != value:
            raise PruningError("setting_conflict", name=setting.name, first=values[setting.name], second=value)
        values[setting.name] = value
    return replace(defaults_of(strategy), **values)


def defaults_of(strategy: str) -> Settings:
    """Every setting at its default under a strategy, and the strategy itself."""
    return Settings(strategy=strategy, **STRATEGIES[strategy].defaults)


def merged(settings: Settings, values: Mapping[str, Any]) -> Settings:
    """The settings with these values, in their types already; what else a plan or a file holds is left out."""
    return replace(settings, **{name: value for name, value in values.items() if name == "strategy" or name in SETTINGS})
