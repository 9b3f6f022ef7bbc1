"""Every parameter once: name, default, unit, range, help, old names. Flags, widgets and description.txt are made from it.

Old names are still accepted; `canonical` says which name to use now. Knows nothing about models.
"""

import difflib
import math
from collections.abc import Callable
from dataclasses import dataclass

from .errors import PruningError

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
    return EXPECTED[key.removeprefix("expected.")].format(**values)


@dataclass(frozen=True)
class Setting:
    """One parameter. `kind` is the type a value is turned into; `above` and `below` are open bounds."""

    name: str
    default: object
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


def parts_of(value: str) -> tuple[str, ...]:
    """The parts of a text that are joined by commas."""
    return tuple(part.strip() for part in value.split(",") if part.strip())


_CUTTING = ("global", "layer", "uniform", "apply")
_PROMPT = "def is_prime(n):\n    if n < 2:\n        return False\n    for i in range("
GROUPS = ("model", "calibration", "importance", "plan", "recovery", "evaluation", "output")
_STRATEGY_COMMANDS = ("global", "layer", "uniform")
_RECOVERY_COMMANDS = (*_STRATEGY_COMMANDS, "apply", "recover")
LORA_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")

_ALL = (
    # model
    Setting("base_model", None, str, "model", "The model to prune: demo, a local folder, or a Hugging Face id (owner/name)."),
    Setting(
        "device", "auto", str, "model", "Where to compute: auto, cpu, cuda, or cuda:N. auto takes a GPU when there is one."
    ),
    Setting(
        "dtype",
        "auto",
        str,
        "model",
        "Number format while computing: auto is float32 on CPU and bfloat16 on GPU.",
        choices=("auto", "float32", "bfloat16", "float16"),
    ),
    Setting(
        "attn_implementation",
        "auto",
        str,
        "model",
        "Attention code: auto takes sdpa, but eager for small heads in half precision on CPU (faster there).",
        choices=("auto", "eager", "sdpa"),
    ),
    Setting("trust_remote_code", False, bool, "model", "Allow a model to run the Python code it brings; no file can allow it."),
    Setting("head_dim", None, int, "model", "Size of a head, if you want it checked; it is read from the model.", minimum=1),
    Setting(
        "gqa_ratio",
        None,
        int,
        "model",
        "Query heads per KV head, if you want it checked; it is read from the model.",
        minimum=1,
    ),
    # calibration
    Setting(
        "corpus",
        "python-stdlib",
        str,
        "calibration",
        "Calibration text: python-stdlib, wikitext2, c4, a dataset id, or a .txt / .jsonl / .parquet file.",
    ),
    Setting("text_column", "text", str, "calibration", "Column of a dataset or file that holds the text."),
    Setting(
        "num_samples",
        128,
        int,
        "calibration",
        "Calibration windows: 10-20 for a quick look, 128 standard, 256-512 careful.",
        "samples",
        minimum=1,
        old_names=("head_importance_samples", "num_examples"),
    ),
    Setting(
        "seq_len",
        128,
        int,
        "calibration",
        "Length of a calibration window.",
        "tokens",
        minimum=2,
        old_names=("taylor_seq_len", "max_seq_len"),
    ),
    Setting(
        "gradient_batch_size", 8, int, "calibration", "Windows per batch; lower it when memory runs out.", "samples", minimum=1
    ),
    Setting("seed", 0, int, "calibration", "Seed of the choice of windows.", minimum=0, maximum=2**31 - 1),
    # importance
    Setting(
        "importance_method",
        "taylor",
        str,
        "importance",
        "How the importance of a group is measured: by gradients, activations, or weights alone.",
        choices=("taylor", "taylor_2nd", "wanda", "l1", "l2", "gate", "fisher"),
        old_names=("pruner_type",),
    ),
    Setting(
        "layer_importance_method",
        "removal",
        str,
        "importance",
        "How the importance of a whole layer is measured.",
        choices=("removal", "activation", "block_influence"),
    ),
    Setting(
        "layer_importance_samples",
        50,
        int,
        "importance",
        "Calibration windows for the importance of layers; 0 skips it.",
        "samples",
        minimum=0,
        old_names=("importance_samples",),
    ),
    Setting(
        "layer_importance_config",
        None,
        str,
        "importance",
        "A layer_importance_config.json of this model to reuse instead of measuring layers.",
        old_names=("importance_config",),
    ),
    # plan
    Setting(
        "pruning_ratio",
        0.25,
        float,
        "plan",
        "Share of parameters to remove: 0.15-0.2 cautious, 0.2-0.3 standard, 0.3-0.4 aggressive.",
        "share",
        above=0,
        below=1,
    ),
    Setting(
        "ratio_basis",
        "model",
        str,
        "plan",
        "What the ratio refers to: all parameters of the model, or those of the layers that may be cut (selected).",
        choices=("model", "selected"),
    ),
    Setting(
        "layer_start", None, int, "plan", "First layer that is measured and may be cut; replaces block_*.", "layer", minimum=0
    ),
    Setting(
        "layer_end", None, int, "plan", "Layer before which measuring and cutting end; replaces block_*.", "layer", minimum=1
    ),
    Setting("block_attention_layer_start", None, int, "plan", "First layer whose attention may be cut.", "layer", minimum=0),
    Setting(
        "block_attention_layer_end", None, int, "plan", "Layer before which cutting of attention ends.", "layer", minimum=1
    ),
    Setting("block_mlp_layer_start", None, int, "plan", "First layer whose MLP may be cut.", "layer", minimum=0),
    Setting("block_mlp_layer_end", None, int, "plan", "Layer before which cutting of MLPs ends.", "layer", minimum=1),
    Setting(
        "protected_layers",
        "",
        str,
        "plan",
        "More layers that stay whole, as 0-2,17,30-31 (inclusive, zero-based); none lifts all protection.",
    ),
    Setting(
        "pruning_distribution",
        "auto",
        str,
        "plan",
        "Attention:MLP shares of what is removed, as 2:8; auto (global only) lets the scores decide.",
    ),
    Setting("freeze_top_n_layers", 0, int, "plan", "Also protect this many of the most important layers.", "layers", minimum=0),
    Setting(
        "pruning_strategy",
        "inverse",
        str,
        "plan",
        "Rates of layers: uniform, inverse (important layers lose less) or proportional to importance.",
        choices=("uniform", "inverse", "proportional"),
    ),
    Setting(
        "importance_weight",
        1.0,
        float,
        "plan",
        "How strongly rates follow importance; 0 makes them equal.",
        minimum=0,
        maximum=10,
        old_names=("alpha",),
    ),
    Setting(
        "layer_min_pruning_rate",
        0.15,
        float,
        "plan",
        "Least rate of a layer.",
        "share",
        minimum=0,
        maximum=1,
        old_names=("min_pruning_rate",),
    ),
    Setting(
        "layer_max_pruning_rate",
        0.5,
        float,
        "plan",
        "Largest rate of a layer.",
        "share",
        minimum=0,
        maximum=1,
        old_names=("max_pruning_rate",),
    ),
    Setting(
        "match_target", False, bool, "plan", "Raise the rates of unprotected layers until the whole model reaches the ratio."
    ),
    Setting(
        "mlp_multiple",
        1,
        int,
        "plan",
        "Round the kept MLP width up to a multiple; 64, 128, 256 suit hardware.",
        "channels",
        minimum=1,
    ),
    Setting("prune_attention", True, bool, "plan", "Cut attention groups; without it a split must be 0:10."),
    Setting("prune_mlp", True, bool, "plan", "Cut MLP channels; without it a split must be 10:0."),
    Setting("min_kv_groups", 1, int, "plan", "Attention groups that stay in each layer.", "groups", minimum=1),
    Setting("min_mlp_channels", 1, int, "plan", "MLP channels that stay in each layer.", "channels", minimum=1),
    Setting(
        "remove_empty_layers",
        False,
        bool,
        "plan",
        "Lift both floors, and delete layers that end up with neither attention nor MLP.",
    ),
    Setting(
        "keep_groups",
        "",
        str,
        "plan",
        "Groups kept by hand whatever the strategy says, as 3a1,5m20-29: attention group 1 of layer 3, MLP channels 20 to 29 "
        "of layer 5.",
    ),
    Setting("cut_groups", "", str, "plan", "Groups cut by hand, named as in keep_groups; protection does not keep them."),
    Setting(
        "groups",
        None,
        str,
        "plan",
        "A CSV like groups_to_prune.csv: exactly its rows are cut.",
        commands=("apply",),
    ),
    Setting(
        "table",
        None,
        str,
        "plan",
        "A CSV like global_group_table.csv, which may be edited: rows that are missing stay, its scores rank.",
        commands=("apply",),
    ),
    Setting("plan", None, str, "plan", "A plan.json: exactly this plan is cut.", commands=("apply",)),
    Setting(
        "iterative_steps",
        1,
        int,
        "plan",
        "Rounds of cutting: an equal share of the parameters goes in each, and what is left is measured again; 1 cuts at once.",
        "rounds",
        minimum=1,
        commands=_STRATEGY_COMMANDS,
    ),
    # recovery
    Setting(
        "reconstruct",
        False,
        bool,
        "recovery",
        "Repair the cut model without training: new weights for what stays of o_proj and down_proj (least squares).",
        commands=_RECOVERY_COMMANDS,
    ),
    Setting(
        "reconstruct_tokens",
        65536,
        int,
        "recovery",
        "Calibration tokens for the repair.",
        "tokens",
        minimum=1,
        commands=_RECOVERY_COMMANDS,
    ),
    Setting("finetune", False, bool, "recovery", "Train the cut model to win quality back.", commands=_RECOVERY_COMMANDS),
    Setting(
        "finetune_method",
        "lora",
        str,
        "recovery",
        "Train small added matrices that are merged at the end (lora), or every weight (full).",
        choices=("lora", "full"),
        commands=_RECOVERY_COMMANDS,
    ),
    Setting(
        "finetune_corpus",
        None,
        str,
        "recovery",
        "Training text, named as corpus is, or instructions (dataset id, .json or .jsonl file with the columns instruction, "
        "input and output), of which only answers are learned; by default the calibration text.",
        commands=_RECOVERY_COMMANDS,
    ),
    Setting(
        "finetune_samples",
        500,
        int,
        "recovery",
        "Training windows, or instructions: 500 below a ratio of 0.2, 1000 to 0.3, 2000 above.",
        "samples",
        minimum=1,
        commands=_RECOVERY_COMMANDS,
    ),
    Setting(
        "finetune_seq_len",
        None,
        int,
        "recovery",
        "Length of a training window; by default seq_len.",
        "tokens",
        minimum=2,
        commands=_RECOVERY_COMMANDS,
    ),
    Setting(
        "finetune_lr",
        None,
        float,
        "recovery",
        "Learning rate; by default 1e-4 for lora and 1e-5 for full.",
        above=0,
        commands=_RECOVERY_COMMANDS,
    ),
    Setting(
        "finetune_epochs",
        1.0,
        float,
        "recovery",
        "Passes over the training text.",
        "epochs",
        above=0,
        commands=_RECOVERY_COMMANDS,
    ),
    Setting(
        "finetune_steps",
        0,
        int,
        "recovery",
        "Training steps; above 0 it replaces finetune_epochs.",
        "steps",
        minimum=0,
        commands=_RECOVERY_COMMANDS,
    ),
    Setting(
        "finetune_batch_size",
        8,
        int,
        "recovery",
        "Windows per batch; lower it when memory runs out.",
        "samples",
        minimum=1,
        commands=_RECOVERY_COMMANDS,
    ),
    Setting(
        "finetune_accumulation",
        1,
        int,
        "recovery",
        "Batches whose gradients are added up for one step.",
        "batches",
        minimum=1,
        commands=_RECOVERY_COMMANDS,
    ),
    Setting(
        "finetune_warmup",
        0.05,
        float,
        "recovery",
        "Share of the steps in which the learning rate rises.",
        "share",
        minimum=0,
        maximum=1,
        commands=_RECOVERY_COMMANDS,
    ),
    Setting(
        "finetune_eval_steps",
        20,
        int,
        "recovery",
        "Steps between two measurements of perplexity; the best state is kept.",
        "steps",
        minimum=1,
        commands=_RECOVERY_COMMANDS,
    ),
    Setting(
        "finetune_max_rise",
        2.0,
        float,
        "recovery",
        "Training stops when its loss is this many times the first loss.",
        above=1,
        commands=_RECOVERY_COMMANDS,
    ),
    Setting(
        "gradient_checkpointing",
        False,
        bool,
        "recovery",
        "Compute activations twice instead of keeping them: less memory, a third more time.",
        commands=_RECOVERY_COMMANDS,
    ),
    Setting("lora_r", 8, int, "recovery", "Rank of the added matrices, usually 4-16.", minimum=1, commands=_RECOVERY_COMMANDS),
    Setting(
        "lora_alpha",
        16,
        int,
        "recovery",
        "Strength of the added matrices, usually twice lora_r.",
        minimum=1,
        commands=_RECOVERY_COMMANDS,
    ),
    Setting(
        "lora_dropout",
        0.0,
        float,
        "recovery",
        "Share of inputs of the added matrices that are dropped at random.",
        "share",
        minimum=0,
        below=1,
        commands=_RECOVERY_COMMANDS,
    ),
    Setting(
        "lora_targets",
        ",".join(LORA_TARGETS),
        str,
        "recovery",
        "Matrices that get added ones, joined by commas.",
        parts=LORA_TARGETS,
        commands=_RECOVERY_COMMANDS,
    ),
    Setting(
        "distill_weight",
        0.0,
        float,
        "recovery",
        "Share of the loss that compares with the predictions of the model before the cut; 0 leaves it out.",
        "share",
        minimum=0,
        maximum=1,
        commands=_RECOVERY_COMMANDS,
    ),
    Setting(
        "distill_temperature",
        2.0,
        float,
        "recovery",
        "Above 1, less likely tokens count more in that comparison.",
        above=0,
        commands=_RECOVERY_COMMANDS,
    ),
    # evaluation
    Setting(
        "test_before_prune",
        False,
        bool,
        "evaluation",
        "Measure perplexity of the model before the cut; without pruning_ratio, a strategy does this and nothing else.",
        commands=_CUTTING,
    ),
    Setting("test_after_prune", False, bool, "evaluation", "Measure perplexity of the cut model.", commands=_CUTTING),
    Setting("eval_corpus", "python-stdlib", str, "evaluation", "Held-out text for perplexity; named as corpus is."),
    Setting("eval_seq_len", 128, int, "evaluation", "Length of a perplexity window.", "tokens", minimum=2),
    Setting(
        "eval_windows",
        256,
        int,
        "evaluation",
        "Perplexity windows, spread evenly over the text; 0 takes all.",
        "windows",
        minimum=0,
    ),
    Setting("prompt", _PROMPT, str, "evaluation", "Both models continue this text."),
    # output
    Setting(
        "experiment_name",
        None,
        str,
        "output",
        "Folder of the experiment; default: model, strategy, ratio and time joined by '-'.",
        old_names=("save_ckpt_log_name",),
    ),
    Setting("output_root", "prune_log", str, "output", "Folder that holds the experiments."),
    Setting(
        "overwrite",
        False,
        bool,
        "output",
        "Replace an experiment of the same name; it is restored if the run fails before it made anything. `recover`: give up a "
        "training that was stopped.",
    ),
    Setting("resume", False, bool, "output", "Continue an experiment that was stopped, from its last finished step."),
    Setting(
        "dry_run", False, bool, "output", "Show what the plan would give, and the memory and disk it takes; change nothing."
    ),
    Setting(
        "save_table_path",
        None,
        str,
        "output",
        "Also write the group table to this .csv or .json, for a person to edit and `apply` to read.",
        commands=("importance", "global", "layer", "uniform"),
    ),
    Setting(
        "save_model",
        False,
        bool,
        "output",
        "Save the cut model as a Hugging Face folder, checked by loading it again.",
        commands=_CUTTING,
    ),
    Setting(
        "save_format",
        "hf",
        str,
        "output",
        "What else to make of the saved model, joined by commas: hf, bin, gguf, or any format of `export`.",
        commands=_CUTTING,
    ),
    Setting(
        "save_dtype",
        "auto",
        str,
        "output",
        "Number format of the saved weights; auto is that of the model's files.",
        choices=("auto", "float32", "bfloat16", "float16"),
        commands=_CUTTING,
    ),
    Setting(
        "max_shard_size",
        "5GB",
        str,
        "output",
        "Largest weight file of the saved folder, as 5GB or 500MB; a larger model is split.",
        commands=_CUTTING,
    ),
    Setting(
        "stream",
        False,
        bool,
        "output",
        "Cut from file to file, one tensor at a time: no model in memory, and nothing is evaluated.",
        commands=("apply",),
    ),
)

SETTINGS: dict[str, Setting] = {setting.name: setting for setting in _ALL}
_OLD_NAMES = {old: setting.name for setting in _ALL for old in setting.old_names}


# What a strategy takes instead of a setting's own default.
STRATEGY_DEFAULTS: dict[str, dict] = {
    "global": {},
    "layer": {"num_samples": 10, "seq_len": 64, "pruning_distribution": "2:8"},
    "uniform": {"pruning_distribution": "2:8"},
}
STRATEGIES = tuple(STRATEGY_DEFAULTS)
# Where a run goes and how it is started; they say nothing of its result.
OF_THE_FOLDER = ("experiment_name", "output_root", "overwrite", "resume", "dry_run")
# What only the person may decide, on this command line or in this app: it is never written to a file or read from one.
OF_THE_PERSON = ("trust_remote_code",)
PLAN_SETTINGS = tuple(name for name, setting in SETTINGS.items() if setting.group == "plan" and not setting.commands)


def plan_settings(settings: dict) -> dict:
    """The settings that decide a plan, and no others."""
    return {"strategy": settings["strategy"]} | {name: settings[name] for name in PLAN_SETTINGS}


def canonical(name: str) -> str:
    """The current name of a setting; raises PruningError with the nearest name for one that never existed."""
    name = _OLD_NAMES.get(name, name)
    if name not in SETTINGS:
        nearest = difflib.get_close_matches(name, [*SETTINGS, *_OLD_NAMES], n=1)
        raise PruningError("setting_unknown", name=name, suggestion=f" (did you mean `{nearest[0]}`?)" if nearest else "")
    return name


def resolve(given: dict, strategy: str = "global") -> dict:
    """Every setting with its value: those in `given` (old names too) checked and typed, the others at their default.

    `strategy` is recorded, and brings its own defaults. Raises PruningError for an unknown name, a value out of range, or
    one setting under two names with two values.
    """
    values: dict = {}
    for name, raw in given.items():
        setting = SETTINGS[canonical(name)]
        value = setting.parse(raw)
        if values.get(setting.name, value) != value:
            raise PruningError("setting_conflict", name=setting.name, first=values[setting.name], second=value)
        values[setting.name] = value
    return defaults_of(strategy) | values


def defaults_of(strategy: str) -> dict:
    """Every setting at its default under a strategy, and the strategy itself."""
    return {"strategy": strategy} | {name: setting.default for name, setting in SETTINGS.items()} | STRATEGY_DEFAULTS[strategy]
