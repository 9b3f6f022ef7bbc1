"""Every parameter once: name, default, unit, range, help, old names. Flags, widgets and description.txt are made from it.

Old names are still accepted; `canonical` says which name to use now. Knows nothing about models.
"""

import difflib
import math
from dataclasses import dataclass

from .errors import PruningError


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
    old_names: tuple[str, ...] = ()

    @property
    def flag(self) -> str:
        return f"--{self.name}"

    @property
    def expected(self) -> str:
        """What a value must be, in words."""
        lower = (
            f"at least {self.minimum}" if self.minimum is not None else f"above {self.above}" if self.above is not None else ""
        )
        upper = (
            f"at most {self.maximum}" if self.maximum is not None else f"below {self.below}" if self.below is not None else ""
        )
        bounds = " and ".join(filter(None, (lower, upper)))
        noun = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}[self.kind]
        return f"{noun} {bounds}".strip()

    def parse(self, value):
        """The value in its type; raises PruningError naming the setting, the value seen and what it must be."""
        if value is None:
            return None
        parsed = self._convert(value)
        if self.choices and parsed not in self.choices:
            raise PruningError("setting_choice", name=self.name, value=value, choices=", ".join(self.choices))
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


_PROMPT = "def is_prime(n):\n    if n < 2:\n        return False\n    for i in range("
GROUPS = ("model", "calibration", "importance", "plan", "evaluation", "output")

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
    Setting("trust_remote_code", False, bool, "model", "Allow a model folder to run the Python code it brings."),
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
        "How the importance of a group is measured.",
        choices=("taylor",),
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
        "Attention:MLP shares of what is removed, as 2:8; auto lets the scores decide.",
    ),
    Setting("min_kv_groups", 1, int, "plan", "Attention groups that stay in each layer.", "groups", minimum=1),
    Setting("min_mlp_channels", 1, int, "plan", "MLP channels that stay in each layer.", "channels", minimum=1),
    Setting(
        "remove_empty_layers",
        False,
        bool,
        "plan",
        "Lift both floors, and delete layers that end up with neither attention nor MLP.",
    ),
    # evaluation
    Setting("test_before_prune", False, bool, "evaluation", "Measure perplexity of the model before the cut."),
    Setting("test_after_prune", False, bool, "evaluation", "Measure perplexity of the cut model."),
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
    Setting("prompt", _PROMPT, str, "evaluation", "Both models go on from this text."),
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
    Setting("overwrite", False, bool, "output", "Replace an experiment of the same name."),
    Setting("save_model", False, bool, "output", "Save the cut model as a Hugging Face folder, checked by loading it again."),
)

SETTINGS: dict[str, Setting] = {setting.name: setting for setting in _ALL}
_OLD_NAMES = {old: setting.name for setting in _ALL for old in setting.old_names}


def canonical(name: str) -> str:
    """The current name of a setting; raises PruningError with the nearest name for one that never existed."""
    name = _OLD_NAMES.get(name, name)
    if name not in SETTINGS:
        nearest = difflib.get_close_matches(name, [*SETTINGS, *_OLD_NAMES], n=1)
        raise PruningError("setting_unknown", name=name, suggestion=f"; did you mean `{nearest[0]}`?" if nearest else "")
    return name


def resolve(given: dict) -> dict:
    """Every setting with its value: those in `given` (old names too) checked and typed, the others at their default.

    Raises PruningError for an unknown name, a value out of range, or one setting under two names with two values.
    """
    values: dict = {}
    for name, raw in given.items():
        setting = SETTINGS[canonical(name)]
        value = setting.parse(raw)
        if values.get(setting.name, value) != value:
            raise PruningError("setting_conflict", name=setting.name, first=values[setting.name], second=value)
        values[setting.name] = value
    return {name: setting.default for name, setting in SETTINGS.items()} | values
