"""The README's table of parameters is the one that settings.py gives."""

from pruning.commands.reference import README, parameter_table, readme_with_table
from pruning.settings import SETTINGS


def test_the_readme_holds_the_table_of_today():
    readme = README.read_text(encoding="utf-8")
    assert readme_with_table(readme) == readme, "run: python -m pruning.commands.reference"


def test_every_parameter_and_every_old_name_stands_in_it():
    table = parameter_table()
    for name, setting in SETTINGS.items():
        assert table.count(f"| `{name}` |") == 1
        assert all(f"`{old}`" in table for old in setting.old_names)
