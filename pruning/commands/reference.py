"""The table of all parameters in the README, made from settings.py: `python -m pruning.commands.reference` updates it."""

from pathlib import Path

from ..settings import GROUPS, SETTINGS, Setting
from ..strategies import STRATEGIES

README = Path(__file__).parents[2] / "README.md"
BEGIN, END = "<!-- parameters, made by python -m pruning.commands.reference -->", "<!-- end of parameters -->"
_HEAD = "| parameter | default | what it does | old names |\n| --- | --- | --- | --- |"


def parameter_table() -> str:
    """One Markdown table per group of settings, in the order of `--help`."""
    parts = []
    for group in GROUPS:
        rows = [_row(setting) for setting in SETTINGS.values() if setting.group == group]
        parts.append("\n".join([f"**{group}**", "", _HEAD, *rows]))
    return "\n\n".join(parts)


def readme_with_table(readme: str) -> str:
    """The README with the table between its two marks updated."""
    before, _, rest = readme.partition(BEGIN)
    after = rest.partition(END)[2]
    return f"{before}{BEGIN}\n\n{parameter_table()}\n\n{END}{after}"


def _row(setting: Setting) -> str:
    old = ", ".join(f"`{name}`" for name in setting.old_names)
    return f"| `{setting.name}` | {_default(setting)} | {_cell(_meaning(setting))} | {old} |"


def _default(setting: Setting) -> str:
    """The default, and the strategies that have another."""
    by_value: dict[str, list[str]] = {}
    for strategy in STRATEGIES.values():
        if setting.name in strategy.defaults:
            by_value.setdefault(_value(strategy.defaults[setting.name]), []).append(f"`{strategy.name}`")
    return "; ".join([_value(setting.default), *(f"{value} in {', '.join(names)}" for value, names in by_value.items())])


def _value(default) -> str:
    if default in (None, ""):
        return "-"
    if "\n" in str(default):
        return "the head of a Python function"
    return f"`{default}`"


def _meaning(setting: Setting) -> str:
    text = setting.help
    if setting.choices:
        text += f" One of: {', '.join(setting.choices)}."
    if setting.kind in (int, float) and setting.bounds:
        text += f" {setting.bounds[0].upper()}{setting.bounds[1:]}."
    if setting.unit:
        text += f" Unit: {setting.unit}."
    if setting.commands:
        text += f" Only with: {', '.join(setting.commands)}."
    return text


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


if __name__ == "__main__":
    README.write_text(readme_with_table(README.read_text(encoding="utf-8")), encoding="utf-8")
