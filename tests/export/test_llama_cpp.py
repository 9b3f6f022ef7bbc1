"""Real llama.cpp takes the GGUF files and goes on as transformers does. Needs requirements-gguf.txt: `make test-gguf`."""

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from pruning.export.gguf_file import write_gguf
from pruning.export.hugging_face import save_model
from pruning.export.opened_file import OpenedFile, greedy, greedy_in_llama_cpp, open_in_llama_cpp
from pruning.model.surgery import cut
from pruning.planning.shape import ATTENTION, MLP
from tests.export.shapes import CUTS, DEMO, pruned
from tests.export.test_gguf import with_byte_fallback
from tests.tiny_models import FAMILIES, plan_without, random_ids

llama_cpp = pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed: make test-gguf")

LAYERS = range(32)
UNIFORM = {(i, ATTENTION): {i % 4} for i in LAYERS} | {(i, MLP): range(i, i + 96) for i in LAYERS}
DIFFERENT = {(i, ATTENTION): {i % 4} for i in range(3, 20, 2)} | {(i, MLP): range(8 * i) for i in range(3, 30)}
DIFFERENT |= {(12, ATTENTION): range(4), (14, MLP): range(384)}
TEXT = "def area(width, height):\n    return width * height  # 面积 ü 12345\n"


@pytest.mark.parametrize("removed", [UNIFORM, DIFFERENT], ids=["uniform", "different sizes"])
def test_the_demo_model_is_continued_by_the_same_32_tokens(tmp_path, removed):
    tokenizer = AutoTokenizer.from_pretrained(DEMO)
    model = AutoModelForCausalLM.from_pretrained(DEMO, dtype=torch.float32).eval()
    model = cut(model, plan_without(model, removed))
    save_model(model, tokenizer, tmp_path / "model")
    write_gguf(tmp_path / "model", tokenizer, tmp_path / "model.gguf", "F32")
    prompt = torch.tensor(tokenizer(TEXT)["input_ids"])
    assert tokens_of(tmp_path / "model.gguf", TEXT) == prompt.tolist()
    assert greedy_in_llama_cpp(str(tmp_path / "model.gguf"), prompt.tolist(), 32) == greedy(model, prompt, 32)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_and_shape_gives_the_logits_of_transformers(tmp_path, family):
    tokenizer = with_byte_fallback()
    for name, removed in CUTS.items():
        plan, model = pruned(family, removed, vocab_size=300, bias=family == "llama")
        if family == "qwen3" and not plan.shape_after.is_uniform:
            continue
        save_model(model, None, tmp_path / "model")
        write_gguf(tmp_path / "model", tokenizer, tmp_path / "model.gguf", "F32")
        ids = random_ids(1, 24, 266)
        with torch.inference_mode():
            expected = model(ids).logits[0].numpy()
        assert np.abs(logits_of(tmp_path / "model.gguf", ids[0].tolist()) - expected).max() < 1e-4, name


def test_where_llama_cpp_goes_on_differently_the_gap_is_told(tmp_path):
    _, model = pruned("llama", {}, vocab_size=300)
    save_model(model, None, tmp_path / "model")
    write_gguf(tmp_path / "model", with_byte_fallback(), tmp_path / "model.gguf", "F32")
    opened = OpenedFile(str(tmp_path / "model.gguf"), model, exact=True, for_llama_cpp=True)
    assert opened.continued(random_ids(1, 24, 266)[0])["llama_cpp"] == {"tokens": 32, "equal": 32}
    model.model.embed_tokens.weight.data *= -1
    found = opened.continued(random_ids(1, 24, 266)[0])["llama_cpp"]
    assert found["equal"] < 32 and found["gap"] > 1e-4


def test_byte_fallback_gives_the_tokens_of_transformers(tmp_path):
    tokenizer = with_byte_fallback()
    save_model(pruned("llama", {}, vocab_size=300)[1], None, tmp_path / "model")
    write_gguf(tmp_path / "model", tokenizer, tmp_path / "model.gguf", "F16")
    for text in ("abab ab aba baba", TEXT):
        assert tokens_of(tmp_path / "model.gguf", text) == tokenizer(text)["input_ids"]


def tokens_of(path, text: str) -> list[int]:
    model = llama_cpp.Llama(model_path=str(path), vocab_only=True, verbose=False)
    return model.tokenize(text.encode(), add_bos=True, special=False)


def logits_of(path, ids: list[int]) -> np.ndarray:
    model = open_in_llama_cpp(str(path), len(ids))
    model.eval(ids)
    return np.array(model.scores[: len(ids)])
