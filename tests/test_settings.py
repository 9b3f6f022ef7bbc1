"""Settings: what is accepted, and what the person reads when it is not."""

import pytest

from pruning.errors import MESSAGES, PruningError
from pruning.settings import GROUPS, SETTINGS, canonical, resolve


def message(given: dict) -> str:
    with pytest.raises(PruningError) as caught:
        resolve(given)
    return str(caught.value)


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        (0, "`pruning_ratio` is 0; it must be a number above 0 and below 1."),
        (1, "`pruning_ratio` is 1; it must be a number above 0 and below 1."),
        (1.4, "`pruning_ratio` is 1.4; it must be a number above 0 and below 1."),
        (-0.1, "`pruning_ratio` is -0.1; it must be a number above 0 and below 1."),
        ("nan", "`pruning_ratio` is nan; it must be a number above 0 and below 1."),
        ("abc", "`pruning_ratio` is 'abc'; it must be a number above 0 and below 1."),
        ("", "`pruning_ratio` is ''; it must be a number above 0 and below 1."),
        ([0.2], "`pruning_ratio` is [0.2]; it must be a number above 0 and below 1."),
    ],
)
def test_impossible_ratios(value, sentence):
    assert message({"pruning_ratio": value}) == sentence


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"seq_len": 1}, "`seq_len` is 1; it must be a whole number at least 2."),
        ({"seq_len": 12.5}, "`seq_len` is 12.5; it must be a whole number at least 2."),
        ({"seq_len": "inf"}, "`seq_len` is 'inf'; it must be a whole number at least 2."),
        ({"seq_len": True}, "`seq_len` is True; it must be a whole number at least 2."),
        ({"seed": 2**31}, "`seed` is 2147483648; it must be a whole number at least 0 and at most 2147483647."),
        ({"ratio_basis": "all"}, "`ratio_basis` is 'all'; it must be one of: model, selected."),
        ({"save_model": "maybe"}, "`save_model` is 'maybe'; it must be true or false."),
        ({"importance_weight": -1}, "`importance_weight` is -1; it must be a number at least 0 and at most 10."),
        ({"layer_min_pruning_rate": 1.5}, "`layer_min_pruning_rate` is 1.5; it must be a number at least 0 and at most 1."),
        ({"freeze_top_n_layers": -1}, "`freeze_top_n_layers` is -1; it must be a whole number at least 0."),
        ({"min_kv_groups": 0}, "`min_kv_groups` is 0; it must be a whole number at least 1."),
        ({"mlp_multiple": 0}, "`mlp_multiple` is 0; it must be a whole number at least 1."),
        ({"prunning_ratio": 0.2}, "There is no setting `prunning_ratio` (did you mean `pruning_ratio`?)."),
        ({"num_samples": 5, "num_examples": 6}, "`num_samples` was given twice with different values: 5 and 6. Keep one."),
    ],
)
def test_other_faults(given, sentence):
    assert message(given).replace("?.", "?") == sentence.replace("?.", "?")


def test_a_name_like_no_other_gets_no_suggestion():
    assert message({"xyzzy": 1}) == "There is no setting `xyzzy`."


def test_values_are_typed_and_the_rest_is_at_its_default():
    values = resolve({"pruning_ratio": "0.3", "seq_len": "64", "save_model": "True", "seed": 3.0})
    assert (values.pruning_ratio, values.seq_len, values.save_model, values.seed) == (0.3, 64, True, 3)
    assert values.num_samples == 128
    assert values.as_dict().keys() == SETTINGS.keys() | {"strategy"}


@pytest.mark.parametrize(
    ("strategy", "samples", "length", "split"),
    [("global", 128, 128, "auto"), ("layer", 10, 64, "2:8"), ("uniform", 128, 128, "2:8")],
)
def test_a_strategy_brings_its_own_defaults_and_is_recorded(strategy, samples, length, split):
    values = resolve({"pruning_ratio": 0.3}, strategy)
    assert values.strategy == strategy
    assert (values.num_samples, values.seq_len, values.pruning_distribution) == (samples, length, split)
    given = {"num_samples": 7, "seq_len": 8, "pruning_distribution": "1:9"}
    assert resolve(given, strategy).of(given) == given


@pytest.mark.parametrize(
    ("old", "name"),
    [
        ("head_importance_samples", "num_samples"),
        ("num_examples", "num_samples"),
        ("taylor_seq_len", "seq_len"),
        ("max_seq_len", "seq_len"),
        ("save_ckpt_log_name", "experiment_name"),
        ("importance_samples", "layer_importance_samples"),
        ("importance_config", "layer_importance_config"),
    ],
)
def test_old_names(old, name):
    assert canonical(old) == name
    assert getattr(resolve({old: "7", name: "7"}), name) in (7, "7")


def test_every_default_is_a_value_its_own_setting_accepts():
    for setting in SETTINGS.values():
        assert setting.parse(setting.default) == setting.default
        assert setting.group in GROUPS
        assert setting.help.endswith(".")


def test_errors_survive_the_way_from_a_worker():
    import pickle

    error = pickle.loads(pickle.dumps(PruningError("setting_missing", name="base_model")))
    assert (error.code, str(error)) == ("setting_missing", MESSAGES["setting_missing"].format(name="base_model"))
