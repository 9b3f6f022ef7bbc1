"""What a model writes: the greedy continuation of a prompt, without the prompt."""

import pytest
import torch

from pruning.model.checkpoint import load, open_checkpoint
from pruning.model.generation import continue_text
from pruning.settings import SETTINGS, resolve


@pytest.fixture(scope="module")
def demo():
    return load(open_checkpoint("demo"), resolve({"base_model": "demo"}))


@torch.no_grad()
def greedy(demo, prompt: str, count: int) -> str:
    """Token by token, without a cache."""
    ids = demo.tokenizer(prompt)["input_ids"]
    start = len(ids)
    for _ in range(count):
        token = demo.model(torch.tensor([ids]), use_cache=False).logits[0, -1].argmax().item()
        if token == demo.tokenizer.eos_token_id:
            break
        ids.append(token)
    return demo.tokenizer.decode(ids[start:])


def test_the_continuation_is_the_most_likely_token_each_time(demo):
    prompt = SETTINGS["prompt"].default
    written = continue_text(demo.model, demo.tokenizer, prompt, max_new_tokens=12)
    assert written == greedy(demo, prompt, 12) and prompt not in written


def test_the_same_text_comes_each_time(demo):
    assert len({continue_text(demo.model, demo.tokenizer, "import ", max_new_tokens=8) for _ in range(2)}) == 1


def test_an_empty_prompt_starts_a_document(demo):
    assert continue_text(demo.model, demo.tokenizer, "", max_new_tokens=5)


def test_a_prompt_that_fills_the_model_s_window_gets_no_more_than_fits(demo):
    limit = demo.model.config.max_position_embeddings
    prompt = demo.tokenizer.decode(demo.tokenizer("x = 1\n" * limit)["input_ids"][: limit - 3])
    room = limit - len(demo.tokenizer(prompt)["input_ids"])
    written = continue_text(demo.model, demo.tokenizer, prompt)
    assert len(demo.tokenizer(written)["input_ids"]) <= max(room, 1)
