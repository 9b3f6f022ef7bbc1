"""The app in Chinese: the same sentences as in English, no word of English on a page, and nothing lost when it is switched."""

import json
import re
import string
from pathlib import Path

import pytest
from google.protobuf.json_format import MessageToDict
from streamlit.testing.v1 import AppTest

from analysis.catalogue import CHINESE, ENGLISH, LANGUAGES
from pruning.errors import PruningError
from ui.language import of_locale
from ui.translation import error_text, job_error_text, sentences, t, words_of_now

from .conftest import on_page

IN_ENGLISH, IN_CHINESE = sentences(ENGLISH), sentences(CHINESE)
# Names and what people type; every other sentence has Chinese in it, or no letters of its own.
LATIN = {
    *("model.source.hub", "importance.methods.spearman", "unit.tokens", "setting.lora_alpha", "setting.lora_dropout"),
    *("chart.kind.mlp", "table.kind.mlp", "sidebar.language.en", "report.language"),
    *("recover.training.lora", "cost.way.lora", "recover.lr.lora", "recover.lr.full", "corpus.wikitext2"),
    *("export.name.gguf-f32", "export.name.gguf-f16", "export.name.gguf-bf16", "export.name.bin"),
    *("model.folder.placeholder", "model.hub.placeholder", "corpus.dataset.placeholder", "corpus.file.placeholder"),
    *("importance.methods.spearman.mlp", "chart.ranks.name", "corpus.c4", "trial.basis.text", "chart.pareto.series"),
}
PAGES = {  # page -> what its links may ask for
    "model": [{}],
    "importance": [{"importance_section": name} for name in ("layers", "groups", "distribution", "methods")],
    "plan": [
        *({"plan_section": name} for name in ("groups", "preview", "sweep", "plans", "file")),
        *({"strategy": name, "shaped": "1"} for name in ("layer", "uniform")),
    ],
    "prune": [{}],
    "recover": [{}],
    "compare": [{}],
    "export": [{}, {"export_format": "gguf-q8_0"}],
    "learn": [{"learn_section": name} for name in ("matrix", "group", "cut", "strategies", "knapsack", "scores")],
}
VISITS = [pytest.param(page, query, id="-".join([page, *query.values()])) for page, asked in PAGES.items() for query in asked]
NO_TEXT = {"jsContent", "cssContent", "htmlContent", "template", "textposition", "default", "value"}  # or what the person typed
HAN = "[\u4e00-\u9fff]"
ENGLISH_WORDS = re.compile(r"[A-Za-z][a-z']+(?:[ ,]+[A-Za-z][a-z']+)+")
NAMES = ("Llama Pruning Studio", "Hugging Face", "streamlit run app.py", "state dict")


def fields(sentence: str) -> set[tuple[str, str, str]]:
    """The values that a sentence shows, each with its format; Chinese has no words that a count chooses."""
    parsed = string.Formatter().parse(sentence)
    return {(name, how or "", converted or "") for _, name, how, converted in parsed if name and "|" not in (how or "")}


def test_both_languages_have_the_same_keys():
    assert IN_CHINESE.keys() == IN_ENGLISH.keys()


def test_the_files_keep_the_order_of_the_english_one():
    folder = Path(__file__).resolve().parents[2] / "analysis" / "text"
    english, chinese = (list(json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))) for name in LANGUAGES)
    assert chinese[: len(english)] == english


def skeleton(sentence: str) -> tuple:
    """What both languages must have alike: values, code, links and colours, lists, paragraphs, lines."""
    marks = re.findall(r"\]\([^)]*\)|:\w+\[|^- ", sentence)
    return fields(sentence), set(re.findall(r"`[^`]+`", sentence)), marks, sentence.count("\n\n"), sentence.count("<br>")


def test_sentences_take_the_same_values_and_keep_code_and_marks():
    assert [key for key in IN_ENGLISH if skeleton(IN_CHINESE[key]) != skeleton(IN_ENGLISH[key])] == []


def test_sentences_are_chinese_but_for_names():
    own = {key: re.sub(r"\{[^}]*\}", "", sentence) for key, sentence in IN_CHINESE.items()}
    assert {key for key, text in own.items() if re.search("[A-Za-z]", text) and not re.search(HAN, text)} == LATIN


def test_a_space_parts_the_two_scripts():
    touching = re.compile(f"{HAN}[A-Za-z0-9]|[A-Za-z0-9]{HAN}")
    assert [key for key, sentence in IN_CHINESE.items() if touching.search(sentence)] == []


def test_every_emphasis_ends_where_markdown_lets_it():
    """Not after a punctuation mark that a letter follows at once: the asterisks would stand on the page."""
    ends = [(key, end) for key, sentence in IN_CHINESE.items() for end in re.finditer(r"\*+([^*]+)\*+(\w?)", sentence)]
    assert [key for key, end in ends if end[2] and end[1][-1] in "，。：；！？）”"] == []


def test_terms_are_the_same_everywhere():
    terms = {"pruning ratio": "剪枝率", "retention": "保留率", "sparsity": "稀疏度", "attention group": "注意力头组"}
    terms |= {"perplexity": "困惑度", "importance": "重要性", "MLP channel": "MLP 通道", "Distillation": "蒸馏"}
    missing = {
        (english, key)
        for english, chinese in terms.items()
        for key, sentence in IN_ENGLISH.items()
        if english in re.sub(r"`[^`]+`|\w*_\w*|\{[^}|]*\}|\{\w+:|\|[^}]*\}", "", sentence) and chinese not in IN_CHINESE[key]
    }
    assert missing == set()


# errors ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def chinese(monkeypatch):
    """The sentences of a Chinese session, without one."""
    monkeypatch.setattr("ui.translation.current", lambda: CHINESE)


def test_outside_a_session_it_is_english():
    assert t("plan.title") == "Plan"


def test_what_is_made_later_keeps_the_language(chinese, monkeypatch):
    words = words_of_now()
    monkeypatch.setattr("ui.translation.current", lambda: ENGLISH)
    assert words("plan.title") == IN_CHINESE["plan.title"] != t("plan.title")


def test_the_words_of_the_engine_inside_an_error_are_chinese_too(chinese):
    wrong = PruningError("setting_range", name="finetune_warmup", value=2, expected="a number at least 0 and at most 1")
    assert error_text(wrong) == "`finetune_warmup` 为 2；应为：数，至少为 0，至多为 1。"
    out_of_memory = PruningError("out_of_memory", doing="working on: gradients or activations")
    assert "梯度或激活" in job_error_text(out_of_memory.content)
    unreachable = PruningError("ratio_unreachable", ratio=0.9, basis="all parameters", largest=0.5)
    assert "全部参数" in error_text(unreachable)


@pytest.mark.parametrize(
    ("locale", "language"), [("zh-CN", "zh"), ("zh", "zh"), ("zh_TW", "zh"), ("en-US", "en"), ("de", "en"), (None, "en")]
)
def test_the_browser_s_language_is_the_default(locale, language):
    assert of_locale(locale) == language


# pages ----------------------------------------------------------------------------------------------------------------


def in_chinese(at: AppTest, query: dict[str, str]) -> AppTest:
    at.context["locale"] = "zh-CN"
    for name, value in query.items():
        at.query_params[name] = value
    return at


def texts_in(value, name: str = "") -> list[str]:
    """Every text inside a message to the browser, those inside JSON too."""
    if isinstance(value, dict):
        return [text for key, part in value.items() if key not in NO_TEXT for text in texts_in(part, key)]
    if isinstance(value, list):
        return [text for part in value for text in texts_in(part, name)]
    if not isinstance(value, str):
        return []
    if value.startswith(("{", "[{")) and name in ("json", "columns", "figure"):
        return texts_in(json.loads(value))
    return [value]


def shown_texts(at: AppTest) -> list[str]:
    """What a page says: labels, options, help, sentences, heads of columns, words of charts; not code, not files."""
    nodes = [node for place in (at.main, at.sidebar) for node in place if node.type not in ("code", "html")]
    messages = [MessageToDict(node.proto) for node in nodes if getattr(node, "proto", None) is not None]
    cells = [str(cell) for frame in at.dataframe for cell in frame.value.select_dtypes(["object", "str"]).to_numpy().ravel()]
    return [text for message in messages for text in texts_in(message)] + cells


def english_in(text: str) -> list[str]:
    """Runs of two and more English words outside of code and names."""
    text = re.sub(r"```.*?```|`[^`]*`|<[^>]*>|https?://\S+", " · ", text, flags=re.DOTALL)
    for name in NAMES:
        text = text.replace(name, " · ")
    return ENGLISH_WORDS.findall(text)


def assert_is_chinese(at: AppTest, page: str) -> None:
    assert not at.exception and not at.error
    assert [title.value for title in at.title] == [IN_CHINESE[f"{page}.title"]]
    texts = shown_texts(at)
    if page == "export":  # the model card is a file of the export, for whoever gets it
        texts = [text for text in texts if "Made with Llama Pruning Studio" not in text and "| --- |" not in text]
    assert [text for text in texts if text in IN_ENGLISH] == []
    assert [found for text in texts for found in english_in(text)] == []


@pytest.mark.parametrize(("page", "query"), VISITS)
def test_every_page_of_a_cut_experiment_is_chinese(app_of, cut_root, page, query):
    assert_is_chinese(on_page(in_chinese(app_of(cut_root), query), page), page)


def test_english_on_a_page_is_found(app_with_table):
    """What the tests around this one rest on."""
    texts = shown_texts(on_page(app_with_table, "plan"))
    found = " | ".join(run for text in texts for run in english_in(text))
    places = ("the model is not touched", "share of prunable parameters", "importance per parameter", "Layers that may be cut")
    assert [place for place in places if place not in found] == []


@pytest.mark.parametrize("page", PAGES)
def test_every_page_without_an_experiment_is_chinese(app, page):
    assert_is_chinese(on_page(in_chinese(app, {}), page), page)


# switching ------------------------------------------------------------------------------------------------------------


def test_a_link_wins_over_the_browser_and_only_what_was_chosen_stands_in_the_link(app):
    at = in_chinese(app, {}).run()
    assert "lang" not in at.query_params and at.title[0].value == IN_CHINESE["model.title"]
    at.segmented_control(key="language_picker").set_value("en").run()
    assert at.query_params["lang"] == "en" and at.title[0].value == "Model"


def test_an_unknown_language_in_a_link_is_left_to_the_browser(app):
    at = in_chinese(app, {"lang": "xx"}).run()
    assert at.title[0].value == IN_CHINESE["model.title"]


def test_switching_loses_nothing_of_the_plan(app_with_table):
    at = on_page(app_with_table, "plan")
    at.segmented_control(key="strategy").set_value("layer").run()
    at.slider(key="ratio").set_value(0.4).run()
    at.slider(key="bounds").set_value((0.1, 0.7))
    at.select_slider(key="shares").set_value("3:7")
    at.segmented_control(key="layer_rates").set_value("proportional")
    at.segmented_control(key="plan_section").set_value("sweep").run()
    at.segmented_control(key="sweep_axis").set_value("ratio").run()
    before, link = plan_state(at), dict(at.query_params)

    at.segmented_control(key="language_picker").set_value("zh").run()
    assert not at.exception and at.title[0].value == IN_CHINESE["plan.title"]
    assert plan_state(at) == before
    assert at.query_params == link | {"lang": "zh"}


def plan_state(at: AppTest) -> dict:
    keys = {"ratio": at.slider, "bounds": at.slider, "shares": at.select_slider}
    keys |= dict.fromkeys(("strategy", "layer_rates", "plan_section", "sweep_axis"), at.segmented_control)
    return {key: widgets(key=key).value for key, widgets in keys.items()}


def test_a_kept_plan_and_the_one_on_screen_stay_chosen(app_with_table, measured_root):
    at = on_page(app_with_table, "plan")
    at.segmented_control(key="plan_section").set_value("plans").run()
    at.text_input(key="plan_name").set_value("mine").run()
    at.button(key="keep_plan").click().run()
    at.slider(key="ratio").set_value(0.4).run()
    at.segmented_control(key="language_picker").set_value("zh").run()
    assert (at.selectbox(key="compare_first").value, at.selectbox(key="compare_second").value) == ("", "mine")
    assert not at.exception
    (measured_root / "first" / "plans" / "mine.json").unlink()


def test_the_link_of_a_format_says_its_own_name(app_of, cut_root):
    at = on_page(in_chinese(app_of(cut_root), {"export_format": "plan"}), "export")
    assert at.selectbox(key="export_format").value == "plan"
    at = on_page(app_of(cut_root), "export")
    at.selectbox(key="export_format").set_value("bin").run()
    assert at.query_params["export_format"] == "bin"
