"""What the Plan page's widgets hold, under short names for the URL, and the settings that they stand for.

settings (description.txt, a named plan)  ->  values  ->  widgets, URL, undo  ->  values  ->  settings
"""

import math
import re

from pruning.errors import PruningError
from pruning.planning.protection import Protection, default_cut_range
from pruning.planning.shape import GROUP_TYPES
from pruning.runs.trials import SPLITS
from pruning.settings import SETTINGS, Settings, defaults_of, resolve
from pruning.strategies import DEFAULT_STRATEGY, STRATEGIES

LOWEST_RATIO, HIGHEST_RATIO, LARGEST_WEIGHT = 0.01, 0.95, 5.0
AUTO = "auto"
MULTIPLES = (1, 8, 16, 32, 64, 128, 256)

# Setting -> its short name, where a widget holds the setting's value as it is.
_SAME = {
    "ratio_basis": "basis",
    "match_target": "match",
    "freeze_top_n_layers": "freeze",
    "pruning_strategy": "layer_rates",
    "importance_weight": "weight",
    "min_kv_groups": "floor_kv",
    "min_mlp_channels": "floor_mlp",
    "mlp_multiple": "multiple",
    "remove_empty_layers": "empty",
    "keep_groups": "keep",
    "cut_groups": "cut",
}
_LAYER_KEYS = ("layers", "mlp_layers")
_CHOICES = {
    "strategy": tuple(STRATEGIES),
    "basis": SETTINGS["ratio_basis"].choices,
    "layer_rates": SETTINGS["pruning_strategy"].choices,
    "split": (AUTO, *SPLITS),
    "shares": SPLITS,
    "multiple": MULTIPLES,
}
_MOST = 10**6
_LIMITS = {
    "ratio": (LOWEST_RATIO, HIGHEST_RATIO),
    "freeze": (0, _MOST),
    "weight": (0.0, LARGEST_WEIGHT),
    "bounds": (0.0, 1.0),
    "floor_kv": (1, _MOST),
    "floor_mlp": (1, _MOST),
}
PRESETS = {"quick": {"ratio": 0.3}, "standard": {"ratio": 0.25}, "careful": {"ratio": 0.15}}


def layers_key(num_layers: int) -> str:
    """The number of layers is in the key: a slider whose limits change would fall back to its default, in the URL too."""
    return f"layers{num_layers}"


def mlp_layers_key(num_layers: int) -> str:
    return f"mlp_layers{num_layers}"


def default_values(num_layers: int) -> dict:
    """Every value at its default."""
    return values_of(defaults_of(DEFAULT_STRATEGY), num_layers)


def preset_values(preset: str, num_layers: int) -> dict:
    """All values of a preset: the defaults, and what it changes."""
    return default_values(num_layers) | PRESETS[preset]


def values_of(settings: Settings, num_layers: int) -> dict:
    """The values that stand for these settings; what a slider cannot show goes to its nearest end."""
    protection, named = _protection(settings, num_layers)
    attention, mlp = ((one.start, one.stop - 1) for one in (protection.attention, protection.mlp))
    split = settings.pruning_distribution
    lowest, highest = settings.layer_min_pruning_rate, settings.layer_max_pruning_rate
    same = {name: getattr(settings, setting) for setting, name in _SAME.items()}
    return same | {
        "weight": min(settings.importance_weight, LARGEST_WEIGHT),
        "multiple": settings.mlp_multiple if settings.mlp_multiple in MULTIPLES else 1,
        "strategy": settings.strategy,
        "ratio": min(max(settings.pruning_ratio, LOWEST_RATIO), HIGHEST_RATIO),
        layers_key(num_layers): attention,
        mlp_layers_key(num_layers): mlp,
        "apart": attention != mlp,
        "protect": named,
        "split": split if STRATEGIES[settings.strategy].compares_layers and split in SPLITS else AUTO,
        "shares": split if split in SPLITS else "2:8",
        "bounds": (lowest, highest),
    }


def settings_of(values: dict, num_layers: int) -> Settings:
    """The settings of a plan with these values; raises PruningError for one that is out of its range."""
    strategy = STRATEGIES[values["strategy"]]
    given = {setting: values[name] for setting, name in _SAME.items()}
    given |= {
        "pruning_ratio": values["ratio"],
        "pruning_distribution": values["split" if strategy.compares_layers else "shares"],
        "layer_min_pruning_rate": values["bounds"][0],
        "layer_max_pruning_rate": values["bounds"][1],
    }
    if not strategy.protects:  # and then the ratio is of all parameters
        return resolve(given | {"freeze_top_n_layers": 0, "ratio_basis": "model", "match_target": False}, strategy.name)
    attention = values[layers_key(num_layers)]
    mlp = values[mlp_layers_key(num_layers)] if values["apart"] else attention
    if values["protect"].strip().lower() == "none":  # lifts all protection, that of the range too
        attention = mlp = (0, num_layers - 1)
    default = default_cut_range(num_layers)
    for kind, (first, last) in zip(GROUP_TYPES, (attention, mlp), strict=True):
        if range(first, last + 1) == default:  # left unsaid, as on the command line
            continue
        given |= {f"block_{kind}_layer_start": first, f"block_{kind}_layer_end": last + 1}
    if not strategy.has_layer_rates:
        given["match_target"] = False
    return resolve(given | {"protected_layers": values["protect"]}, strategy.name)


def to_link(values: dict, defaults: dict) -> dict[str, str]:
    """What a URL says of these values: those that differ from their defaults, the same in every language."""
    return {key: _as_text(value) for key, value in values.items() if key not in defaults or value != defaults[key]}


def from_link(parameters: dict[str, str], defaults: dict) -> dict:
    """The values that a URL names; what is none (a letter for a number, a layer too many) is left out."""
    values = {}
    for key, default in defaults.items():
        if key in parameters:
            try:
                values[key] = _checked(key, _from_text(parameters[key], default), default)
            except ValueError:
                continue
    return values


def _as_text(value) -> str:
    if isinstance(value, tuple):
        return "-".join(_as_text(part) for part in value)
    if isinstance(value, bool):
        return str(int(value))
    if isinstance(value, float):
        short = f"{value:g}"
        return short if float(short) == value else repr(value)  # a saved value may have more digits than a slider gives
    return str(value)


def _from_text(text: str, default):
    if isinstance(default, tuple):
        first, last = re.split(r"(?<=[\d.])-", text)  # the minus of 1e-05 stays
        return _from_text(first, default[0]), _from_text(last, default[1])
    if isinstance(default, bool):
        return {"1": True, "0": False}.get(text, default)
    return type(default)(text)


def _checked(key: str, value, default):
    """The value if its widget can hold it; raises ValueError otherwise."""
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(value)
    choices, limits = _CHOICES.get(key), _LIMITS.get(key)
    if key.startswith(_LAYER_KEYS):
        limits = (0, int(key.lstrip("_abcdefghijklmnopqrstuvwxyz")) - 1)
    parts = value if isinstance(value, tuple) else (value,)
    if choices and value not in choices:
        raise ValueError(value)
    if limits and (not all(limits[0] <= part <= limits[1] for part in parts) or list(parts) != sorted(parts)):
        raise ValueError(value)
    return value


def _protection(settings: Settings, num_layers: int) -> tuple[Protection, str]:
    """The ranges with their defaults, and the layers named beside them; `none` lifts the default range, which then shows."""
    named = settings.protected_layers
    whole = (settings.layer_start, settings.layer_end)
    ranges = {
        kind: whole
        if whole != (None, None)
        else (getattr(settings, f"block_{kind}_layer_start"), getattr(settings, f"block_{kind}_layer_end"))
        for kind in GROUP_TYPES
    }
    is_none = named.strip().lower() == "none"
    try:  # of what is named, only `none` changes a range
        protection = Protection.resolve(num_layers, **ranges, protected_layers="none" if is_none else "")
    except PruningError:  # a file edited by hand; its page says what is wrong, the sliders need two ends
        default = default_cut_range(num_layers)
        return Protection(default, default), named
    return protection, "" if is_none else named
