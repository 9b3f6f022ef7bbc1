"""Flags made from settings.py, settings from a file, old names: what was typed -> settings as given.

--config file.json / .yaml   read first        flags   win over it        old names   still taken, with one line
"""

import argparse
import difflib
import re
from pathlib import Path

from ..errors import PruningError, first_line
from ..files import read_json
from ..settings import GROUPS, OF_THE_FOLDER, OF_THE_PERSON, SETTINGS, Setting, canonical, defaults_of
from ..strategies import DEFAULT_STRATEGY, STRATEGIES

EPILOG = "Exit codes: 0 done, 2 something in the input to mend, 130 stopped, 1 anything else."


# Flags of the old scripts whose meaning has another place now.
_REPLACED = {
    "block_wise": "use `layer --pruning_strategy uniform`",
    "channel_wise": "use `uniform`; the hidden size is never cut",
    "layer_wise": "use `layer --remove_empty_layers`",
    "global_pruning": "use the command `global`",
    "taylor": "use --importance_method taylor or taylor_2nd",
    "eval_device": "use --device",
    "test_before_train": "use --test_before_prune",
    "test_after_train": "use --test_after_prune",
}


class Parser(argparse.ArgumentParser):
    """Says in one sentence what it does not understand."""

    def error(self, message: str):
        raise PruningError("unexpected_flag", message=message)

    def parse_known_args(self, args=None, namespace=None):
        """As argparse does, but an unknown flag is refused before a required one is missed."""
        if self._subparsers is not None:
            return super().parse_known_args(args, namespace)
        for text in args:
            flag = text.partition("=")[0]
            if flag.startswith("--") and " " not in flag and flag not in ("--", *self._option_string_actions):
                raise PruningError("flag_unknown", flag=flag, command=self.prog.split()[-1], hint=self._hint(flag))
        known, unknown = super().parse_known_args(args, namespace)
        if unknown:
            raise PruningError("unexpected_flag", message=f"unexpected argument {unknown[0]!r}")
        return known, unknown

    def _hint(self, flag: str) -> str:
        """What replaced a flag, which command has it, or the nearest flag of this one."""
        name = flag.removeprefix("--")
        if name in _REPLACED:
            return f" ({_REPLACED[name]})"
        if name in SETTINGS and SETTINGS[name].commands:
            return f" (only of {', '.join(SETTINGS[name].commands)})"
        nearest = difflib.get_close_matches(flag, self._option_string_actions, n=1)
        if not nearest:
            return ""
        action = self._option_string_actions[nearest[0]]
        return f" (did you mean {f'--{canonical(action.dest)}' if action.help == argparse.SUPPRESS else nearest[0]}?)"


def strategy_of(command: str) -> str:
    """What a table is cut by: the command itself; `apply` takes the lowest scores of the whole model."""
    return command if command in STRATEGIES else DEFAULT_STRATEGY


def add_flags(parser: argparse.ArgumentParser, command: str, only: tuple[str, ...] = GROUPS) -> None:
    """A flag for every setting of these groups that the command knows, and --config."""
    defaults = defaults_of(strategy_of(command))
    parser.add_argument(
        "--config", metavar="FILE", help="A .json or .yaml file of settings (a description.txt too); flags win over it."
    )
    for group in only:
        section = parser.add_argument_group(group)
        for setting in SETTINGS.values():
            if setting.group == group and (not setting.commands or command in setting.commands):
                add_flag(section, setting, getattr(defaults, setting.name))


def add_flag(section, setting: Setting, default) -> None:
    """The flag of one setting, and of its old names out of sight."""
    # Values stay text here: settings.py checks them, so that page and terminal say the same sentence.
    options = {"help": help_of(setting, default).replace("%", "%%"), "default": None, "dest": setting.name}
    if setting.kind is bool:
        section.add_argument(setting.flag, action=argparse.BooleanOptionalAction, **options)
        return
    metavar = "|".join(setting.choices) or (setting.unit or setting.kind.__name__).upper()
    section.add_argument(setting.flag, metavar=metavar, **options)
    for old in setting.old_names:
        section.add_argument(f"--{old}", help=argparse.SUPPRESS, default=None, dest=old)


def add_output_root(parser: argparse.ArgumentParser) -> None:
    setting = SETTINGS["output_root"]
    parser.add_argument(setting.flag, default=setting.default, metavar="FOLDER", help=help_of(setting, setting.default))


def help_of(setting: Setting, default) -> str:
    """What a setting does, what it may be, and its default."""
    text = setting.help
    if setting.kind in (int, float) and setting.bounds:
        text += f" {setting.bounds[0].upper()}{setting.bounds[1:]}."
    if default not in (None, ""):
        text += f" Default: {repr(default) if chr(10) in str(default) else default}."
    return text


def given_settings(command: str, known: argparse.Namespace, notes: list[str]) -> dict:
    """Settings as given, by the names they were given; those of the file first, then flags.

    Adds to `notes` what the file says in vain. Raises PruningError for a setting in the file that the command has no flag for.
    """
    flags = {n: value for n, value in vars(known).items() if n not in ("command", "config") and value is not None}
    if not known.config:
        return flags
    said = {canonical(name) for name in flags}
    from_file = {n: value for n, value in read_config(Path(known.config).expanduser()).items() if canonical(n) not in said}
    for name in OF_THE_PERSON:
        if from_file.pop(name, None) not in (None, SETTINGS[name].default):
            notes.append(f"Note: {name} of {known.config} does not count: code runs by consent, which is a flag (--{name}).\n")
    for name, value in from_file.items():
        setting = SETTINGS[canonical(name)]
        if setting.commands and command not in setting.commands and setting.parse(value) != setting.default:
            hint = f" (only of {', '.join(setting.commands)})"
            raise PruningError("flag_unknown", flag=setting.flag, command=command, hint=hint)
    return from_file | flags


def refuse_missing_folder(path: Path) -> None:
    """Raises PruningError if a file cannot be written there because its folder is missing, before an hour is spent on it."""
    if not path.resolve().parent.is_dir():
        raise PruningError("disk_write", path=path, reason="its folder is not there")


def read_config(path: Path) -> dict:
    """The settings that a file names: an object of them, or a description.txt, which holds one and says where that run went."""
    content = _read_yaml(path) if path.suffix in (".yaml", ".yml") else read_json(path, None)
    settings = content.get("settings", content)
    if not isinstance(settings, dict):
        raise PruningError("file_broken", path=path, reason="it is not an object of settings")
    left_out = ("strategy", *(OF_THE_FOLDER if settings is not content else ()))
    return {name: value for name, value in settings.items() if name not in left_out and value is not None}


def _read_yaml(path: Path) -> dict:
    """Values as text, as flags have them: YAML reads the split 2:8 as a number to the base 60. None for an empty value."""
    import yaml

    class AsTyped(yaml.BaseLoader):
        pass

    AsTyped.add_constructor("tag:yaml.org,2002:null", lambda loader, node: None)
    AsTyped.add_implicit_resolver("tag:yaml.org,2002:null", re.compile(r"(?:~|null|Null|NULL|)$"), ["~", "n", "N", ""])
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), AsTyped)
    except FileNotFoundError as error:
        raise PruningError("file_missing", path=path) from error
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise PruningError("file_broken", path=path, reason=first_line(error)) from error
    if not isinstance(content, dict):
        raise PruningError("file_broken", path=path, reason="it is not an object of settings")
    return content


def named_as_now(command: str, given: dict, notes: list[str]) -> dict:
    """What was given; adds to `notes` what is called otherwise now. `layer` once called its layer method importance_method."""
    notes += [f"Note: --{name} is now called --{canonical(name)}.\n" for name in given if canonical(name) != name]
    of_layers = SETTINGS["layer_importance_method"].choices
    if command != "layer" or given.get("importance_method") not in of_layers:
        return given
    notes.append("Note: --importance_method with a layer method is now called --layer_importance_method.\n")
    method = given["importance_method"]
    if given.get("layer_importance_method", method) != method:
        raise PruningError(
            "setting_conflict", name="layer_importance_method", first=method, second=given["layer_importance_method"]
        )
    others = {name: value for name, value in given.items() if name != "importance_method"}
    return others | {"layer_importance_method": method}
