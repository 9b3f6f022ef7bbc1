"""What a model writes: greedy continuation of one prompt, so that two models can be read side by side."""

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase


@torch.inference_mode()
def continue_text(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompt: str, max_new_tokens: int = 64) -> str:
    """The text the model puts after `prompt` (the prompt itself left out), greedy, up to `max_new_tokens` tokens."""
    inputs = tokenizer(prompt or tokenizer.eos_token, return_tensors="pt", return_token_type_ids=False).to(model.device)
    limit = getattr(model.config, "max_position_embeddings", None)
    prompt_length = inputs["input_ids"].shape[1]
    room = max(1, limit - prompt_length) if limit else max_new_tokens
    output = model.generate(
        **inputs,
        do_sample=False,
        max_new_tokens=min(max_new_tokens, room),
        pad_token_id=tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id,
    )
    return tokenizer.decode(output[0, prompt_length:], skip_special_tokens=True)
