"""Training after a cut: what is learned, what is kept, when it stops, how it goes on."""

import math
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from peft import PeftModel
from transformers import TrainingArguments
from transformers.training_args import ParallelMode

from pruning.errors import Cancelled, PruningError
from pruning.model.held_out import perplexity
from pruning.model.surgery import cut
from pruning.model.training import FULL, LORA, Training, _stay_on, seconds_per_step, train
from pruning.model.training_text import NOT_PREDICTED, TrainingText
from pruning.planning.shape import ATTENTION, MLP
from pruning.settings import LORA_TARGETS
from tests.tiny_models import FAMILIES, plan_without, random_ids, tiny_model

SIZES_DIFFER = {(0, ATTENTION): {1}, (1, ATTENTION): {0, 3}, (1, MLP): range(0, 24, 2), (3, MLP): range(9)}
BLOCKS_GONE = {
    (1, ATTENTION): range(4),
    (1, MLP): range(12),
    (2, MLP): range(24),
    (3, ATTENTION): range(4),
    (3, MLP): range(24),
}
UNIFORM = {(i, kind): {i % 4} for i in range(5) for kind in (ATTENTION, MLP)}
QUICK = Training(learning_rate=3e-3, steps=12, batch_size=4, eval_steps=4, lora_targets=LORA_TARGETS)


def repetitive(windows: int = 24, length: int = 16) -> torch.Tensor:
    """Counting up from a random start: something that can be learned."""
    start = random_ids(windows, 1)
    return (start + torch.arange(length)) % 60 + 3


IDS = repetitive()
LABELS = IDS.clone()
LABELS[:, 0] = NOT_PREDICTED
TEXT = TrainingText("counting", IDS, LABELS)


def cut_model(family: str = "llama", removed=SIZES_DIFFER, **options):
    model = tiny_model(family, **options)
    return cut(model, plan_without(model, removed))


def judge(model) -> float:
    return perplexity(model, IDS)


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model(IDS[:3]).logits


def run(model, folder, training=QUICK, **options):
    return train(model, TEXT, training, folder, judge, **options)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("removed", [SIZES_DIFFER, BLOCKS_GONE, UNIFORM], ids=["sizes differ", "blocks gone", "one size"])
def test_lora_learns_on_every_cut_model_and_its_adapter_loads_onto_the_cut_base(tmp_path, family, removed):
    model = cut_model(family, removed)
    base_class, before = type(model), judge(model)
    parameters = model.num_parameters()
    result = run(model, tmp_path / "run", adapter_folder=tmp_path / "adapter")
    assert type(result.model) is base_class and result.model.num_parameters() == parameters
    assert judge(result.model) < 0.9 * before
    assert result.best_perplexity == pytest.approx(judge(result.model), rel=1e-4)
    again = PeftModel.from_pretrained(cut_model(family, removed), tmp_path / "adapter")
    torch.testing.assert_close(logits(again), logits(result.model), atol=1e-4, rtol=0)
    assert not any("lora" in name for name, _ in result.model.named_parameters())
    assert all(p.requires_grad and p.grad is None for p in result.model.parameters()) and not result.model.training


@pytest.mark.parametrize("family", FAMILIES)
def test_full_training_learns_too(tmp_path, family):
    model = cut_model(family, tied=True)
    before = judge(model)
    result = run(model, tmp_path, replace(QUICK, method=FULL))
    assert judge(result.model) < 0.9 * before
    assert result.trained_parameters == model.num_parameters()


def test_points_tell_every_step_and_the_perplexities(tmp_path):
    points = []
    result = run(cut_model(), tmp_path, on_point=points.append)
    assert [p.step for p in points] == list(range(13))
    assert [p.step for p in points if p.perplexity is not None] == [0, 4, 8, 12]
    assert result.best_perplexity == min(p.perplexity for p in points if p.perplexity is not None)
    assert all(p.loss > 0 and p.tokens_per_second > 0 for p in points[1:])
    rates = [p.learning_rate for p in points[1:]]
    assert rates[0] < max(rates) == pytest.approx(3e-3) and rates[-1] < 1e-3  # up, then down


def test_the_loss_of_a_step_is_the_mean_over_all_it_predicts_however_it_is_batched(tmp_path):
    labels = LABELS.clone()
    labels[::3, 4:] = NOT_PREDICTED  # batches with fewer predictions count less
    text = TrainingText("uneven", IDS, labels)
    seen = {}
    for batch, accumulation in ((8, 1), (2, 4)):
        points = []
        training = replace(QUICK, batch_size=batch, accumulation=accumulation, steps=3)
        train(cut_model(), text, training, tmp_path / str(batch), judge, points.append)
        seen[batch] = [p.loss for p in points[1:]]
    assert seen[8] == pytest.approx(seen[2], rel=1e-4)


def test_labels_that_are_not_predicted_teach_nothing(tmp_path):
    ids = random_ids(8, 16)
    labels = torch.full_like(ids, NOT_PREDICTED)
    labels[:, 9] = ids[:, 9]
    points = []
    model = cut_model()
    with torch.no_grad():
        expected = torch.nn.functional.cross_entropy(model(ids).logits[:, 8], ids[:, 9]).item()
    text, training = TrainingText("one", ids, labels), replace(QUICK, batch_size=8, steps=1)
    train(model, text, training, tmp_path, judge, points.append)
    assert points[1].loss == pytest.approx(expected, rel=1e-5)


def test_a_training_that_makes_it_worse_gives_the_model_back_as_it_came(tmp_path):
    model = cut_model()
    before = logits(model)
    against = TrainingText("noise", random_ids(24, 16, seed=9), random_ids(24, 16, seed=9))
    result = train(model, against, replace(QUICK, learning_rate=0.05, max_rise=1e9), tmp_path, lambda m: _rises(m))
    assert result.best_step == 0
    torch.testing.assert_close(logits(result.model), before, atol=1e-5, rtol=0)


def _rises(model, seen=[]) -> float:  # noqa: B006
    seen.append(model)
    return float(len(seen))


def test_distillation_comes_nearer_to_the_teacher(tmp_path):
    teacher = tiny_model("llama")
    distances = {}
    for weight in (0.0, 1.0):
        training = replace(QUICK, distill_weight=weight, steps=30)
        helper = teacher if weight else None
        model = run(cut_model(), tmp_path / str(weight), training, teacher=helper).model
        theirs, ours = (each.log_softmax(-1) for each in (logits(teacher), logits(model)))
        distances[weight] = torch.nn.functional.kl_div(ours, theirs, log_target=True, reduction="batchmean").item()
    assert distances[1.0] < distances[0.0]
    assert all(p.grad is None for p in teacher.parameters())


@pytest.mark.parametrize(("learning_rate", "says"), [(10.0, "rose from"), (1e38, "is not a number at step 2")])
def test_a_learning_rate_that_diverges_is_stopped_with_a_sentence(tmp_path, learning_rate, says):
    with pytest.raises(PruningError, match=says) as caught:
        run(cut_model(), tmp_path, replace(QUICK, method=FULL, learning_rate=learning_rate, steps=50, warmup=0.0))
    assert f"Lower finetune_lr, which is {learning_rate:g}" in str(caught.value)


def test_a_loss_that_is_not_a_number_is_stopped_with_a_sentence(tmp_path):
    model = cut_model()
    points = []

    def poison(point) -> None:
        points.append(point)
        if point.step == 2:
            model.model.norm.weight.data.fill_(math.nan)

    with pytest.raises(PruningError, match="not a number at step 3"):
        run(model, tmp_path, on_point=poison)


def test_cancelled_it_keeps_the_best_so_far(tmp_path):
    def stop(point) -> None:
        if point.step == 10:
            raise Cancelled()

    result = run(cut_model(), tmp_path, on_point=stop)
    assert result.was_cancelled and result.best_step == 8
    assert judge(result.model) == pytest.approx(result.best_perplexity, rel=1e-4)


@pytest.mark.parametrize("method", [LORA, FULL])
def test_one_that_was_killed_goes_on_and_ends_as_if_nothing_had_happened(tmp_path, method):
    training = replace(QUICK, method=method, lora_dropout=0.1)
    whole = run(cut_model(), tmp_path / "whole", training)

    def kill(point) -> None:
        if point.step == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(cut_model(), tmp_path / "killed", training, on_point=kill)
    points = []
    again = run(cut_model(), tmp_path / "killed", training, on_point=points.append)
    assert [p.step for p in points] == list(range(5, 13))  # from the checkpoint of step 4
    torch.testing.assert_close(logits(again.model), logits(whole.model), atol=1e-5, rtol=0)


def test_a_loss_that_rises_after_a_kill_is_held_against_the_first_of_the_whole_training(tmp_path):
    points, model = [], cut_model()

    def kill(point) -> None:
        points.append(point)
        if point.step == 6:
            raise KeyboardInterrupt

    def spoil(point) -> None:
        if point.step == 8:
            model.lm_head.weight.data.mul_(-100)

    with pytest.raises(KeyboardInterrupt):
        run(cut_model(), tmp_path, on_point=kill)
    with pytest.raises(PruningError, match="rose from") as caught:
        run(model, tmp_path, on_point=spoil)
    assert caught.value.values["first"] == pytest.approx(points[1].loss)
    assert points[1].loss > 1.05 * points[5].loss  # of step 5, with which the second run began


@pytest.mark.parametrize("lost", ["trainer_state.json", "optimizer.pt", "scheduler.pt", "trained.safetensors", "a part"])
def test_a_checkpoint_that_a_kill_left_half_is_not_gone_on_from(tmp_path, lost):
    def kill(point) -> None:
        if point.step == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(cut_model(), tmp_path, on_point=kill)
    half = Path(shutil.copytree(tmp_path / "checkpoints" / "checkpoint-4", tmp_path / "checkpoints" / "checkpoint-8"))
    if lost == "a part":
        (half / "trainer_state.json").write_text('{"global_step": 8, ')
    else:
        (half / lost).unlink()
    points = []
    run(cut_model(), tmp_path, replace(QUICK, steps=7), on_point=points.append)
    assert [p.step for p in points] == [5, 6, 7, 7]  # the last is measured at the end
    assert not half.exists()


@pytest.mark.parametrize("warmup", [0.0, 0.05, 0.5, 1.0])
def test_the_learning_rate_rises_from_above_zero_and_falls_after_the_warm_up(warmup):
    training = Training(steps=40, warmup=warmup)
    shares = [training.share_of_rate(step) for step in range(40)]
    rising = math.ceil(40 * warmup)
    assert all(0 < share <= 1 for share in shares)
    assert shares[:rising] == sorted(shares[:rising]) and shares[rising:] == sorted(shares[rising:], reverse=True)
    assert shares[rising:][:1] in ([1.0], []) and (warmup == 1 or shares[-1] < 0.01)


def test_gradient_checkpointing_changes_nothing_but_memory(tmp_path):
    results, kept = [], []

    def count(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor.numel())
        return tensor

    for on in (False, True):
        kept.append(0)
        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            results.append(run(cut_model("qwen3"), tmp_path / str(on), replace(QUICK, gradient_checkpointing=on)).model)
        results.append(sum(kept))
        kept.clear()
    torch.testing.assert_close(logits(results[0]), logits(results[2]), atol=1e-4, rtol=0)
    assert results[3] < results[1] / 2


@pytest.mark.parametrize("method", [LORA, FULL])
def test_half_precision_weights_come_back_so_and_rotary_frequencies_stay_exact(tmp_path, method):
    model = cut_model()
    for parameter in model.parameters():
        parameter.data = parameter.data.bfloat16()
    frequencies = model.model.rotary_emb.inv_freq.clone()
    result = run(model, tmp_path, replace(QUICK, method=method, steps=4))
    assert {p.dtype for p in result.model.parameters()} == {torch.bfloat16}
    assert torch.equal(result.model.model.rotary_emb.inv_freq, frequencies)
    assert math.isfinite(judge(result.model))


def test_memory_that_runs_out_gives_advice(tmp_path, monkeypatch):
    def out_of_memory(*_, **__) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(torch.Tensor, "backward", out_of_memory)  # where the hardware would say so
    with pytest.raises(PruningError, match="finetune_batch_size") as caught:
        run(cut_model(), tmp_path)
    assert "gradient_checkpointing" in str(caught.value)


def test_a_training_that_was_killed_after_its_last_step_takes_no_step_more(tmp_path):
    run(cut_model(), tmp_path)
    points = []
    again = run(cut_model(), tmp_path, on_point=points.append)
    assert not points and again.steps == 12
    assert judge(again.model) == pytest.approx(again.best_perplexity, rel=1e-4)


@pytest.mark.parametrize("method", [LORA, FULL])
def test_a_step_can_be_timed_beforehand(tmp_path, method):
    assert seconds_per_step(cut_model(), TEXT, replace(QUICK, method=method), tmp_path) > 0
    assert not any(tmp_path.rglob("*.safetensors"))


def test_of_several_gpus_the_trainer_takes_the_one_where_the_model_is(tmp_path, monkeypatch):
    current = []
    for name, answer in (("is_available", True), ("device_count", 2)):
        monkeypatch.setattr(torch.cuda, name, lambda answer=answer: answer)
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    AcceleratorState._reset_state(reset_partial_state=True)
    try:
        arguments = TrainingArguments(output_dir=str(tmp_path), dataloader_pin_memory=False, report_to="none")
        assert (str(arguments.device), arguments.n_gpu) == ("cuda:0", 2)  # left alone it would take all of them
        _stay_on(arguments, torch.device("cuda:1"))
        assert (str(arguments.device), arguments.n_gpu, str(current[-1])) == ("cuda:1", 1, "cuda:1")
        assert arguments.train_batch_size == arguments.per_device_train_batch_size
        assert arguments.parallel_mode == ParallelMode.NOT_PARALLEL
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)


def test_targets_that_the_model_does_not_have_are_named(tmp_path):
    with pytest.raises(PruningError, match="It has: down_proj"):
        run(cut_model(), tmp_path, replace(QUICK, lora_targets=("query",)))
