"""The commands that the README gives for the old scripts run, in its order, and print what it says."""

import re
import shlex
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

import analysis.__main__
import pruning.__main__
from analysis import evaluation
from pruning.runs import cut, results

ROOT = Path(__file__).parents[1]
MAIN = {"pruning": pruning.__main__.main, "analysis": analysis.__main__.main}
OLD_SCRIPTS = {
    *("global_pruning.py", "llama3_global_pruning.py", "layer_pruning.py", "llama3.py", "llama3_unbalanced_pruning.py"),
    *("llama3_unbalanced_pruning_gqa_aware.py", "demo_global_pruning.py", "evaluate_models.py", "check_model_size.py"),
    *("analyze_pruning.py", "analyze_pruning_details_simple.py", "visualize_pruning_flow.py", "example_analysis.sh"),
}
FEWER_SAMPLES = "--num_samples=2 --seq_len=8 --layer_importance_samples=1 --prompt=x"
FEWER_WINDOWS = "--windows=2 --seq_len=8 --batch_sizes=1,2 --prompt_tokens=2 --new_tokens=1 --repeats=1"


@dataclass(frozen=True)
class Row:
    """One row of the table: names of old scripts, commands as (package, arguments), a line that the last one prints."""

    scripts: tuple[str, ...]
    commands: tuple[tuple[str, tuple[str, ...]], ...]
    line: str


def rows() -> list[Row]:
    section = (ROOT / "README.md").read_text(encoding="utf-8").partition("### From the old scripts")[2].partition("\n### ")[0]
    cells = [line.strip("|").split(" | ") for line in section.splitlines() if line.startswith("| `")]
    return [Row(_code(old), _commands(now), _code(line)[0]) for old, now, line in cells]


def _code(cell: str) -> tuple[str, ...]:
    return tuple(re.findall(r"`([^`]+)`", cell))


def _commands(cell: str) -> tuple[tuple[str, tuple[str, ...]], ...]:
    words = [shlex.split(code) for code in _code(cell) if code.startswith("python -m ")]
    return tuple((package, tuple(arguments)) for _, _, package, *arguments in words)


def with_any_numbers(line: str) -> str:
    """A pattern for a line of output, whatever its figures and spaces are."""
    words = re.sub(r"\d[\d,.]*", "#", line).split()
    return r"\s+".join(re.escape(word).replace(r"\#", r"[\d,.]+") for word in words)


@pytest.fixture
def quick(monkeypatch):
    """What has tests of its own is left out or done in this process: texts, the check of a saved model, a process per model."""
    monkeypatch.setattr(cut, "continue_text", lambda *_: "")
    monkeypatch.setattr(results, "check_reload", lambda *_: {"max_abs_diff": 0.0, "top1": 1.0})
    monkeypatch.setattr(evaluation, "ProcessPoolExecutor", lambda *_, **__: ThreadPoolExecutor(1))


def test_every_old_script_has_a_row():
    assert {script.split()[0] for row in rows() for script in row.scripts} >= OLD_SCRIPTS


def test_the_commands_for_the_old_scripts_run_and_print_what_the_readme_says(quick, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "assets").symlink_to(ROOT / "assets")
    for row in rows():
        for package, arguments in row.commands:
            fewer = FEWER_SAMPLES if package == "pruning" else FEWER_WINDOWS if arguments[0] == "evaluate" else ""
            assert MAIN[package]([*arguments, *fewer.split()]) == 0, (row, capsys.readouterr())
            printed = capsys.readouterr().out
        assert re.search(f"^{with_any_numbers(row.line)}", printed, re.MULTILINE), (row, printed)


# the Chinese one --------------------------------------------------------------------------------------------------------


def code_lines(readme: str) -> set[str]:
    """Every line of a command, of Python or of BibTeX, without the comment at its end; not the list of files."""
    blocks = re.findall(r"^```[a-z]*\n(.*?)^```", readme, flags=re.DOTALL | re.MULTILINE)
    code = (block for block in blocks if not block.startswith("prune_log/"))
    return {re.split(r"\s{3,}|\s+# ", line.strip())[0] for block in code for line in block.splitlines()}


def anchor(heading: str) -> str:
    """The name that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def test_the_chinese_readme_gives_the_same_commands():
    english, chinese = ((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "README.zh.md"))
    assert len(code_lines(chinese)) > 30 and code_lines(chinese) - code_lines(english) == set()


def test_links_between_the_two_readmes_lead_somewhere():
    texts = {name: (ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "README.zh.md")}
    for name, text in texts.items():
        for target, place in re.findall(r"\]\((README[.\w]*md)?(?:#([^)\s]+))?\)", text):
            headings = re.findall(r"^#+ (.*)", texts[target or name], flags=re.MULTILINE)
            assert not place or place in map(anchor, headings), (name, place)
    assert "](README.zh.md)" in texts["README.md"] and "](README.md)" in texts["README.zh.md"]
