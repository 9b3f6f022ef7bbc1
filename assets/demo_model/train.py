"""Trains the demo model from nothing: a small Llama that writes Python, by the recipe of the card (README.md beside this file).

    python -m assets.demo_model.train --output /tmp/demo --minutes 83
    python -m assets.demo_model.train --output /tmp/demo --tokens 300000000 --batch_tokens 16384 --device cuda

    standard library + installed packages  ->  tokenizer  ->  two token streams  ->  random windows  ->  Muon and AdamW
                                                                      held-out modules  ->  perplexity of the saved model

Needs no network. The text is that of the running interpreter and its environment, so another one gives another model.
Knows nothing about pruning.
"""

import argparse
import importlib.metadata
import random
import re
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path, PurePath

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from pruning.export.hugging_face import save_model
from pruning.model.calibration import (
    CALIBRATION,
    HELD_OUT,
    HELD_OUT_MODULES,
    even_windows,
    load_corpus,
    stdlib_documents,
    token_stream,
)
from pruning.model.corpus_names import PYTHON_STDLIB
from pruning.model.held_out import perplexity
from pruning.model.runtime import resolve_attention, resolve_device
from pruning.runs.environment import prepare_this_process
from pruning.words import readable_duration

END_OF_TEXT = "<|endoftext|>"
STDLIB_SHARE = 0.4  # of the windows
MAX_FILE_BYTES = 100_000  # longer files are data tables and generated code
MAX_PACKAGE_BYTES = 5_000_000  # so that no package outweighs the others
TEST_FOLDERS = {"test", "tests", "testing"}
PERMISSIVE = re.compile(r"\b(MIT|BSD|0BSD|Apache|ISC|PSF|Zlib)\b", re.IGNORECASE)
COPYLEFT = re.compile(r"GPL|\bMPL\b|Mozilla|\bEPL\b|CDDL|Proprietary", re.IGNORECASE)

WARM_UP_STEPS, WARM_UP_SHARE = 120, 0.04  # whichever ends first: a short run must warm up too
DECAY_FROM, DECAY_TO = 0.55, 0.02
SHORT_WINDOW, LONG_WINDOW, LONG_FROM = 128, 256, 0.72
LOG_EVERY_STEPS = 20
CHECKPOINT, CHECKPOINT_EVERY_SECONDS = "checkpoint.pt", 600


def demo_config() -> LlamaConfig:
    """32 layers of 16 query and 4 KV heads: the default protected layers mean the same as on Llama-3-8B."""
    return LlamaConfig(
        vocab_size=4096,
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=32,
        num_attention_heads=16,
        num_key_value_heads=4,
        head_dim=8,
        max_position_embeddings=LONG_WINDOW,
        rms_norm_eps=1e-5,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=0,
    )


# text -----------------------------------------------------------------------------------------------------------------


def package_documents() -> Iterator[tuple[str, str]]:
    """(path, source) of the installed packages under a permissive licence, without tests, data tables, held-out modules."""
    packages = {d.metadata["Name"]: d for d in importlib.metadata.distributions() if is_permissive(d.metadata)}
    for name in sorted(packages, key=str.lower):
        files = [file for file in packages[name].files or () if is_training_file(file)]
        random.Random(name).shuffle(files)  # a large package gives some files of each of its parts
        size = 0
        for file in files:
            path = Path(file.locate())
            if not path.is_file() or path.stat().st_size > MAX_FILE_BYTES:
                continue
            size += path.stat().st_size
            if size > MAX_PACKAGE_BYTES:
                break
            yield file.as_posix(), path.read_text(encoding="utf-8", errors="replace")


def is_permissive(metadata: importlib.metadata.PackageMetadata) -> bool:
    """Whether the licence that a package states names a permissive one and no copyleft one."""
    classifiers = [c for c in metadata.get_all("Classifier") or () if c.startswith("License")]
    stated = [metadata.get("License-Expression") or "", *classifiers]
    if not any(stated):
        stated = (metadata.get("License") or "").strip().splitlines()[:1]
    text = " ".join(stated)
    return bool(PERMISSIVE.search(text)) and not COPYLEFT.search(text)


def is_training_file(path: PurePath) -> bool:
    return (
        path.suffix == ".py"
        and path.stem not in HELD_OUT_MODULES
        and not path.stem.startswith("test_")
        and not TEST_FOLDERS & set(path.parts)
    )


def train_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    """A byte-level BPE of the demo model's vocabulary size; it adds nothing by itself."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A", pair="$A $B:1")
    trainer = trainers.BpeTrainer(
        vocab_size=demo_config().vocab_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=END_OF_TEXT,
        eos_token=END_OF_TEXT,
        model_max_length=LONG_WINDOW,
        clean_up_tokenization_spaces=False,
    )


@dataclass(frozen=True)
class TrainingText:
    """Token streams, int64 [tokens] each, documents divided by END_OF_TEXT."""

    stdlib: torch.Tensor
    packages: torch.Tensor

    @classmethod
    def encode(cls, stdlib: list[str], packages: list[str], tokenizer: PreTrainedTokenizerFast) -> "TrainingText":
        return cls(*(torch.cat([token_stream([text], tokenizer) for text in texts]) for texts in (stdlib, packages)))

    def draw(self, count: int, length: int, generator: torch.Generator) -> torch.Tensor:
        """Random windows, int64 [count, length + 1]: STDLIB_SHARE of them from the standard library."""
        windows = []
        for from_stdlib, place in torch.rand(count, 2, generator=generator, dtype=torch.float64).tolist():
            stream = self.stdlib if from_stdlib < STDLIB_SHARE else self.packages
            start = int(place * (len(stream) - length))
            windows.append(stream[start : start + length + 1])
        return torch.stack(windows)


# training -------------------------------------------------------------------------------------------------------------


@dataclass
class Progress:
    """What has been trained so far, earlier runs included."""

    steps: int = 0
    tokens: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class Run:
    """Where to train, how long (so many minutes, or so many tokens), in which batches, from which seed."""

    device: torch.device
    minutes: float | None = None
    tokens: int | None = None
    batch_tokens: int = 4096
    seed: int = 0

    def spent(self, progress: Progress) -> float:
        """Share of the run that is done."""
        return progress.tokens / self.tokens if self.tokens else progress.seconds / (60 * self.minutes)


def initial_model(run: Run) -> LlamaForCausalLM:
    """Random weights in float32. What writes into the residual stream starts smaller, by sqrt(2 * layers)."""
    torch.manual_seed(run.seed)
    config = demo_config()
    model = LlamaForCausalLM(config)
    model.set_attn_implementation(resolve_attention("auto", run.device, config.head_dim, torch.bfloat16))
    for name, weight in model.model.layers.named_parameters():
        if weight.dim() == 2:
            writes = name.endswith(("o_proj.weight", "down_proj.weight"))
            torch.nn.init.normal_(weight, std=0.06 / ((2 * config.num_hidden_layers) ** 0.5 if writes else 1))
    return model.to(run.device)


def make_optimizers(model: LlamaForCausalLM) -> list[torch.optim.Optimizer]:
    """Muon for the layers' matrices, AdamW for embeddings and norms."""
    matrices = [weight for weight in model.model.layers.parameters() if weight.dim() == 2]
    inside = {id(weight) for weight in matrices}
    others = [weight for weight in model.parameters() if id(weight) not in inside]
    return [
        torch.optim.Muon(matrices, lr=4e-3, momentum=0.95, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=4e-3, betas=(0.9, 0.97), weight_decay=0.0),
    ]


def learning_rate_factor(steps: int, spent: float) -> float:
    """Linear warm-up, constant until DECAY_FROM of the budget, then linear down to DECAY_TO."""
    warm_up = min(1.0, max((steps + 1) / WARM_UP_STEPS, spent / WARM_UP_SHARE))
    decay = max(0.0, (spent - DECAY_FROM) / (1 - DECAY_FROM))
    return warm_up * (1 - (1 - DECAY_TO) * decay)


def train_step(model: LlamaForCausalLM, optimizers: list, windows: torch.Tensor, factor: float) -> float:
    """One update on windows [batch, length + 1]; returns their mean next-token loss before it."""
    for group in (group for optimizer in optimizers for group in optimizer.param_groups):
        group["lr"] = group.setdefault("full_lr", group["lr"]) * factor
    with torch.autocast(model.device.type, torch.bfloat16):
        logits = model(input_ids=windows[:, :-1], use_cache=False).logits  # [batch, length, vocabulary]
        loss = cross_entropy(logits.flatten(0, 1).float(), windows[:, 1:].flatten())
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad()
    return loss.item()


def train(model: LlamaForCausalLM, text: TrainingText, run: Run, checkpoint: Path) -> list[float]:
    """Trains to the end of the run, going on from `checkpoint` where there is one; returns the loss of each step."""
    model.train()
    optimizers, generator, progress = make_optimizers(model), torch.Generator().manual_seed(run.seed), Progress()
    if checkpoint.exists():
        progress = load_checkpoint(checkpoint, model, optimizers, generator)
    losses, started, saved = [], time.monotonic() - progress.seconds, time.monotonic()
    while (spent := run.spent(progress)) < 1:
        length = SHORT_WINDOW if spent < LONG_FROM else LONG_WINDOW
        windows = text.draw(max(1, run.batch_tokens // length), length, generator).to(run.device)
        losses.append(train_step(model, optimizers, windows, learning_rate_factor(progress.steps, spent)))
        progress.steps, progress.tokens = progress.steps + 1, progress.tokens + windows[:, 1:].numel()
        progress.seconds = time.monotonic() - started
        if progress.steps % LOG_EVERY_STEPS == 0:
            print_progress(progress, run.spent(progress), losses[-LOG_EVERY_STEPS:])
        if time.monotonic() - saved > CHECKPOINT_EVERY_SECONDS:
            save_checkpoint(checkpoint, model, optimizers, generator, progress)
            saved = time.monotonic()
    return losses


def print_progress(progress: Progress, spent: float, losses: list[float]) -> None:
    time_left = readable_duration(progress.seconds * (1 - spent) / spent)
    print(
        f"step {progress.steps:,}  tokens {progress.tokens:,}  loss {sum(losses) / len(losses):.3f}  "
        f"{progress.tokens / progress.seconds:,.0f} tokens/s  {time_left} left",
        flush=True,
    )


def save_checkpoint(path: Path, model, optimizers: list, generator: torch.Generator, progress: Progress) -> None:
    content = {
        "model": model.state_dict(),
        "optimizers": [optimizer.state_dict() for optimizer in optimizers],
        "generator": generator.get_state(),
        "progress": asdict(progress),
    }
    unfinished = path.with_suffix(".tmp")
    torch.save(content, unfinished)
    unfinished.replace(path)


def load_checkpoint(path: Path, model, optimizers: list, generator: torch.Generator) -> Progress:
    content = torch.load(path, weights_only=True, map_location="cpu")
    model.load_state_dict(content["model"])
    for optimizer, state in zip(optimizers, content["optimizers"], strict=True):
        optimizer.load_state_dict(state)
    generator.set_state(content["generator"])
    return Progress(**content["progress"])


# from text to folder --------------------------------------------------------------------------------------------------


def make_model(folder: Path, stdlib: list[str], packages: list[str], run: Run) -> list[float]:
    """Writes tokenizer, config and bfloat16 weights of a model trained on these texts; returns the loss of each step.

    Goes on from the checkpoint of a run that was broken off, if the folder has one.
    """
    checkpoint = folder / CHECKPOINT
    if checkpoint.exists():
        tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    else:
        tokenizer = train_tokenizer(stdlib + packages)
        tokenizer.save_pretrained(folder)
    text = TrainingText.encode(stdlib, packages, tokenizer)
    print(f"tokens: standard library {len(text.stdlib):,}, packages {len(text.packages):,}", flush=True)
    model = initial_model(run)
    losses = train(model, text, run, checkpoint)
    save_model(model, tokenizer, folder, dtype=torch.bfloat16)  # replaces the folder whole, the checkpoint in it too
    return losses


def held_out_perplexity(folder: Path, seq_len: int, device: torch.device) -> tuple[float, int]:
    """Perplexity of the saved model in float32 on every window of the held-out modules, and how many windows those are."""
    attention = resolve_attention("auto", device, demo_config().head_dim, torch.float32)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation=attention).to(device)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    windows = even_windows(load_corpus(PYTHON_STDLIB, HELD_OUT), tokenizer, seq_len, 0)
    return perplexity(model.eval(), windows), len(windows)


# command line ---------------------------------------------------------------------------------------------------------


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Train the demo model again (recipe: assets/demo_model/README.md).")
    parser.add_argument("--output", type=Path, required=True, help="new folder for the model")
    length = parser.add_mutually_exclusive_group(required=True)
    length.add_argument("--minutes", type=float, help="train for so long (the shipped model: 83 on 2 CPU cores)")
    length.add_argument("--tokens", type=int, help="train on so many tokens (the shipped model: 15,167,488)")
    parser.add_argument("--batch_tokens", type=int, default=4096, help="tokens per step; a GPU wants more (default: 4096)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)")
    parser.add_argument("--seed", type=int, default=0, help="of the weights and the choice of windows (default: 0)")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint in --output")
    args = parser.parse_args()
    if (args.minutes or args.tokens) <= 0 or args.batch_tokens <= 0:
        parser.error("--minutes, --tokens and --batch_tokens must be above 0")
    if args.resume and not (args.output / CHECKPOINT).is_file():
        parser.error(f"there is no checkpoint in {args.output}; start without --resume")
    if not args.resume and args.output.exists() and any(args.output.iterdir()):
        parser.error(f"{args.output} is not empty; name a new folder, or give --resume")
    return args


def main() -> None:
    args = parse_arguments()
    prepare_this_process()
    run = Run(resolve_device(args.device), args.minutes, args.tokens, args.batch_tokens, args.seed)
    stdlib, packages = ([text for _, text in found] for found in (stdlib_documents(CALIBRATION), package_documents()))
    print(f"text: standard library {sum(map(len, stdlib)) / 1e6:.1f} MB, packages {sum(map(len, packages)) / 1e6:.1f} MB")
    make_model(args.output, stdlib, packages, run)
    for seq_len in (SHORT_WINDOW, LONG_WINDOW):
        value, windows = held_out_perplexity(args.output, seq_len, run.device)
        print(f"held-out perplexity {value:.2f} (seq {seq_len}, {windows:,} windows, float32)", flush=True)


if __name__ == "__main__":
    main()
