"""What docs/ names exists: files, sections that code refers to, links."""

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs").glob("*.md"))
FOLDERS = "analysis|assets|benchmarks|pages|pruning|tests|ui"
CODE = sorted(file for folder in FOLDERS.split("|") for file in (ROOT / folder).rglob("*.py"))


def headings(page: str) -> list[str]:
    return re.findall(r"^#+ (.*)", (ROOT / "docs" / page).read_text(encoding="utf-8"), flags=re.MULTILINE)


def anchor(heading: str) -> str:
    """The name that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_file_that_a_page_names_exists(page):
    named = re.findall(rf"`((?:{FOLDERS})/[\w./*-]*|app\.py)`", page.read_text(encoding="utf-8"))
    assert [name for name in named if not any(ROOT.glob(name.rstrip("/")))] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_of_a_page_lead_somewhere(page):
    for target, place in re.findall(r"\]\(([\w./]+\.md)?(?:#([^)\s]+))?\)", page.read_text(encoding="utf-8")):
        file = (page.parent / target).resolve() if target else page
        assert file.is_file(), (page.name, target)
        assert not place or place in map(anchor, re.findall(r"^#+ (.*)", file.read_text(encoding="utf-8"), re.MULTILINE))


def test_sections_that_code_refers_to_are_there():
    numbers = {heading.partition(".")[0] for heading in headings("methods.md")}
    referred = [
        (file.name, page, section)
        for file in CODE
        for page, section in re.findall(r"(methods|decisions)\.md,? (section \d|\w+)", file.read_text(encoding="utf-8"))
        if file != Path(__file__)
    ]
    assert any(page == "methods" and section.startswith("section") for _, page, section in referred)
    for file, page, section in referred:
        if section.startswith("section "):
            assert page == "methods" and section.removeprefix("section ") in numbers, (file, section)
        elif page == "decisions":
            assert section in headings("decisions.md"), (file, section)


# the architecture -----------------------------------------------------------------------------------------------------

ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")


def rooms() -> list[str]:
    """Folders and modules at the top of each package, as the page names them."""
    found = []
    for package in ("analysis", "pruning", "ui"):
        entries = sorted(entry for entry in (ROOT / package).iterdir() if not entry.name.startswith("_"))
        found += [f"{package}/{entry.name}/" for entry in entries if any(entry.glob("*.py"))]
        if package == "pruning":
            found += [f"{package}/{entry.name}" for entry in entries if entry.suffix == ".py"]
    return [*found, *(f"{package}/" for package in ("analysis", "pages", "pruning", "ui")), "app.py"]


@pytest.mark.parametrize("room", rooms())
def test_the_architecture_page_names_every_room(room):
    assert f"`{room}`" in ARCHITECTURE, f"docs/architecture.md does not say what {room} is for"


def test_the_readme_leads_to_the_architecture_page():
    for readme in ("README.md", "README.zh.md"):
        assert "](docs/architecture.md)" in (ROOT / readme).read_text(encoding="utf-8")


def modules_of_paragraphs() -> list[tuple[str, str]]:
    """(folder, module) for each module that a paragraph on a folder names without it."""
    paragraphs = re.findall(r"^\*\*`([^*]+)\*\* (.*?)(?:\n\n|\Z)", ARCHITECTURE, flags=re.MULTILINE | re.DOTALL)
    folders = [(re.findall(r"[\w/]+/(?=`)", head)[-1:], text) for head, text in paragraphs]
    return [(folder, module) for found, text in folders for folder in found for module in re.findall(r"`(\w+\.py)`", text)]


@pytest.mark.parametrize("folder, module", modules_of_paragraphs())
def test_modules_named_without_their_folder_are_in_it(folder, module):
    assert (ROOT / folder / module).is_file() or module == "app.py"


def test_paragraphs_name_modules():
    assert len(modules_of_paragraphs()) > 30


@pytest.mark.parametrize("name, file", re.findall(r"`([\w.]+)` in `([\w/]+\.py)`", ARCHITECTURE))
def test_what_the_architecture_page_finds_is_there(name, file):
    defined = name.rpartition(".")[2]
    assert re.search(rf"^\s*(def|class) {defined}\b", (ROOT / file).read_text(encoding="utf-8"), re.MULTILINE)


# the glossary ---------------------------------------------------------------------------------------------------------

# What the screens called things that have one name now.
FORMER_WORDS = {"en": ("preview", "KV group", "fine-tun", "lesson", "finding"), "zh": ("预览", "微调", "计算剪枝率")}


def glossary() -> list[list[str]]:
    """The cells of each word's row: English, Chinese, meaning, place in the code."""
    text = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    return rows[2:]  # below the head and its line


def sentences(language: str) -> str:
    [catalogue] = ROOT.glob(f"*/**/{language}.json")
    return "\n".join(json.loads(catalogue.read_text(encoding="utf-8")).values())


def test_the_glossary_has_one_row_for_each_of_at_most_40_words():
    rows = glossary()
    assert all(len(row) == 4 and all(cell.strip() for cell in row) for row in rows)
    for column in (0, 1):
        assert len({row[column] for row in rows}) == len(rows) <= 40


def test_screens_use_the_words_of_the_glossary_and_no_former_ones():
    chinese = sentences("zh") + (ROOT / "README.zh.md").read_text(encoding="utf-8")
    assert [row[1] for row in glossary() if row[1] not in chinese] == []
    for language, words in FORMER_WORDS.items():
        found = [word for word in words if re.search(word, sentences(language), re.IGNORECASE)]
        assert not found, (language, found)


def test_the_glossary_names_code_that_exists():
    code = "\n".join(file.read_text(encoding="utf-8") for file in CODE if file != Path(__file__))
    for word, _, _, place in glossary():
        for name in re.findall(r"`([^`]+)`", place):
            assert re.search(rf"\b{re.escape(name.split('.')[0].rstrip('/'))}", code), (word, name)
