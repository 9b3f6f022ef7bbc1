"""What can go wrong, as sentences for the person who has to act on it.

Every error that is the user's to mend is a `PruningError`: a code, the values seen, and one English sentence made from
both. The command line prints the sentence and ends with 2; the app shows it, or its translation looked up by the code.
Knows nothing about where the sentence ends up.
"""

from .words import FORMATTER

MESSAGES = {
    # settings
    "setting_unknown": "There is no setting `{name}`{suggestion}.",
    "setting_type": "`{name}` is {value!r}; it must be {expected}.",
    "setting_range": "`{name}` is {value}; it must be {expected}.",
    "setting_choice": "`{name}` is {value!r}; it must be one of: {choices}.",
    "setting_part": "`{name}` names {part!r}; it may name: {choices}.",
    "setting_conflict": "`{name}` was given twice with different values: {first} and {second}. Keep one.",
    "flag_unknown": "{flag} is no flag of `{command}`{hint}. See --help.",
    "unexpected_flag": "{message}. See --help.",
    "setting_missing": "`{name}` is required.",
    "settings_exclusive": "`{first}` and `{second}` cannot be used together. Leave one of them out.",
    "baseline_only": "With `test_before_prune` and without `pruning_ratio` the uncut model is measured, and nothing is cut: "
    "`{name}` has no effect. Give --pruning_ratio, or leave `{name}` out.",
    "experiment_name": "The experiment name {name!r} cannot be a folder name: use letters, digits, '.', '_' and '-', "
    "at most 120 of them, not starting with a dot.",
    "experiment_exists": "The experiment {name!r} exists already. Choose another name, or pass --overwrite to replace it.",
    "experiment_foreign": "{folder} exists and is not an experiment, so it is not replaced. Choose another name.",
    "experiment_unknown": "There is no experiment {name!r} under {root}.",
    "experiment_taken": "There is already something named {name!r} under {root}. Choose another name.",
    "experiment_busy": "The experiment {name!r} is being worked on by another job. Wait for it or cancel it first.",
    "format_version": "{path} has format version {found}; this version reads {expected}. Create it again.",
    "file_broken": "{path} cannot be read: {reason}. Create it again.",
    # checkpoints
    "model_not_found": "{model!r} is neither a folder here nor a Hugging Face id (owner/name). Check the spelling; "
    "`demo` is the built-in model.",
    "path_outside_roots": "{path} is outside the allowed folders ({roots}).",
    "hub_unreachable": "{model!r} could not be fetched from the Hugging Face hub ({reason}). Without a network, choose the "
    "demo model or a local folder.",
    "hub_gated": "{model!r} is gated or private: ask for access on its page, then enter a token or set HF_TOKEN.",
    "no_config": "{folder} has no config.json, so it is not a model folder. Choose the folder that holds config.json and the "
    "weights.",
    "config_broken": "{path} is not valid JSON ({reason}). Fetch the file again.",
    "architecture": "The architecture {found!r} is not supported. Supported are: {supported}.",
    "config_value": "config.json gives `{name}` as {value!r}; it must be {expected}.",
    "config_kernel": "config.json requests code of the hub by `{name}` ({found}), which is not fetched. Remove that entry.",
    "no_weights": "{folder} holds no weights (no .safetensors and no pytorch_model.bin).",
    "head_differs": "config.json in {folder} says that the output head is tied to the embeddings, but the weights hold another "
    'head. Write "tie_word_embeddings": false into it to keep that head.',
    "weights_distributed": "{folder} holds the shards of a distributed checkpoint ({file}), which this program does not read. "
    "Load it with transformers, and save it as one model with save_pretrained.",
    "shard_missing": "{folder} lists the weight file {file}, but it is not there. Fetch it again.",
    "weights_truncated": "{file} is cut short or damaged: {reason}. Fetch it again.",
    "load_failed": "{folder} could not be loaded: {reason}",
    "weights_mismatch": "The weights contradict config.json: {name} has shape {found}, the config says {expected}.",
    "weights_missing": "The weights lack {name}, which config.json asks for{more}.",
    "weights_unexpected": "The weights hold {name}, which config.json does not provide for{more}.",
    "pickle_refused": "{file} holds pickled Python objects, which can run code, so it is not opened. Convert it to "
    "safetensors, or save a plain state dict.",
    "does_not_fit_gpu": "The model does not fit into the memory of the GPUs here. Choose a smaller model, or --device cpu.",
    "tokenizer": "The tokenizer of {model!r} cannot be read: {reason}.",
    "tokenizer_missing": "{model} holds no tokenizer. Put its files there; one that is Python code of the model is never "
    "exported.",
    "tokenizer_code": "The tokenizer of {model!r} is Python code that the model brings, which runs only if you allow it. Read "
    "it, then allow it: on the Model page, or by --trust_remote_code.",
    "device": "The device {device!r} is not available here{choices}.",
    "out_of_memory": "Out of memory while {doing}. Lower gradient_batch_size to 2 or seq_len to 64 (fewer samples save time, "
    "not memory).",
    # text
    "corpus_unknown": "There is no corpus {corpus!r}. Use python-stdlib, wikitext2, c4, a dataset id (owner/name), a .txt, "
    ".jsonl or .parquet file, or pasted text.",
    "corpus_file_missing": "The text file {path} is not there.",
    "corpus_unreachable": "The corpus {corpus!r} could not be fetched ({reason}). Without a network, use python-stdlib, a "
    "local .txt / .jsonl / .parquet file, or pasted text.",
    "corpus_column": "{corpus} has no text column {column!r}; it has: {columns}.",
    "corpus_line": "{path}, line {line}: {reason}.",
    "corpus_entry": "{path}, entry {line} of its list: {reason}.",
    "corpus_empty": "The corpus {corpus} holds no text.",
    "instructions_unanswered": "No instruction of {corpus} has an answer: `output` is empty everywhere.",
    "corpus_short": "The text of {corpus} has {tokens} {tokens:token|tokens}, less than one window of {seq_len}. Give more "
    "text or lower seq_len.",
    "seq_len_too_long": "`{name}` is {seq_len}; this model sees at most {limit} tokens at once.",
    # planning
    "layer_unknown": "There is no layer {layer}: this model has the layers 0 to {last}.",
    "layer_list": "{text!r} is not a list of layers. Write for example 0-2,17,30-31, or none.",
    "layer_range": "`{first}` is {start} and `{second}` is {end}; they must satisfy 0 <= {first} < {second} <= {layers}.",
    "rates_reversed": "`layer_min_pruning_rate` is {minimum:g} and `layer_max_pruning_rate` is {maximum:g}; the least rate "
    "cannot be above the largest.",
    "freeze_all": "`freeze_top_n_layers` is {frozen}, but this model has {layers} {layers:layer|layers}: at "
    "least one must stay to be cut.",
    "layer_importance_needed": "{setting} needs the importance of layers, and it was not measured. Measure again with "
    "layer_importance_samples above 0.",
    "layer_importance_flat": "No layer has an importance above 0, so rates cannot follow it. Use pruning_strategy uniform, or "
    "another layer_importance_method.",
    "layer_importance_not_finite": "The importance of layer {layer} is not a finite number. Try float32, or check the weights.",
    "uniform_needs_equal_layers": "The layers of this model differ in size, so uniform cannot give them one size. Use global "
    "or layer.",
    "uniform_protects_nothing": "This strategy cuts every layer alike, so `{name}` cannot be used with it. Leave it out, or "
    "use global or layer.",
    "group_list": "{text!r} does not name groups. Write for example 3a1,5m20-29: attention group 1 of layer 3, MLP channels 20 "
    "to 29 of layer 5.",
    "group_unknown": "{name} names a group that is not there: layer {layer} has {count:,} {count:group|groups} of kind "
    "{kind}, from 0.",
    "hand_both": "{name} is both kept and cut by hand. Keep one.",
    "hand_floor": "Cut by hand as asked, layer {layer} would keep {kept} {kept:group|groups} of kind {kind}; at "
    "least {floor} must stay. "
    "Keep some, or allow empty layers.",
    "all_protected": "Every layer is protected, so nothing can be cut. Protect fewer layers.",
    "ratio_unreachable": "{ratio:.4g} of {basis} cannot be removed: with this protection and these floors at most "
    "{largest:.4f} can. Lower the ratio, protect fewer layers, or allow empty layers.",
    "nothing_to_cut": "The ratio {ratio:.4g} leaves no room for the first group to go ({cost:,} parameters), so nothing "
    "would be cut. Raise the ratio.",
    "nothing_left_to_cut": "With the ratio {ratio:.4g} and these floors, this rounding and these changes by hand nothing would "
    "be cut. Raise the ratio, or lower min_kv_groups, min_mlp_channels or mlp_multiple.",
    "uniform_needs_all_groups": "The table has no score for {missing:,} {missing:group|groups}, so uniform cannot "
    "cut every layer alike. Use a table of all layers, or global or layer.",
    "learn_needs_all_groups": "The table has no score for {missing:,} {missing:group|groups}. Sensitivity "
    "measurements cut every layer: measure all of them.",
    "scores_edited": "{path}: {rows:,} {rows:row has|rows have} a score that is not importance / cost; the score counts.",
    "split": "`pruning_distribution` is {value!r}; write auto, or attention:MLP shares such as 2:8.",
    "split_auto": "`pruning_distribution` is auto, which only `global` knows; write attention:MLP shares such as 2:8.",
    "split_unreachable": "The split {split} asks for {asked:,} parameters of {kind}; only {largest:,} can be removed.",
    "table_columns": "{path} lacks the column {column!r}; it needs: {columns}.",
    "table_row": "{path}, row {row}: {reason}.",
    "split_contradicts": "The split {split} cuts what `{name}` false spares. Write another split, or leave `{name}` out.",
    "prune_nothing": "`prune_attention` and `prune_mlp` are both false, so nothing may be cut. Leave one of them out.",
    "model_differs": "`{name}` is {given}, but this model has {found}. Leave it out: it is read from the model.",
    "resume_differs": "This run cannot be continued: its `{name}` was {before!r}, now it is {now!r}. Leave the flag out, "
    "or start again under another name.",
    "table_path": "`save_table_path` is {path!r}; it must end in .csv or .json.",
    "apply_one_source": "Give one of --groups, --table or --plan: the file that says what is cut.",
    "origin_unknown": "{path} does not say which model it was made for (no fingerprint beside it or in it). Its groups and "
    "costs fit this model.",
    "upload_one_file": "Choose one file: a plan.json or a CSV, and beside a CSV its .csv.json if you have it.",
    "table_empty": "{path} has no rows, so it says nothing about what to cut.",
    "file_missing": "The file {path} is not there.",
    "plan_other_model": "{path} was made for another model (fingerprint {found}, this model has {expected}).",
    "plan_other_size": "{path} was made for another model ({found} parameters; this model has {expected}).",
    "plan_name": "The plan name {name!r} cannot be a file name: use letters, digits, '.', '_' and '-', no dot first.",
    "plan_groups": "{path}, layer {layer}: {reason}.",
    "first_layer_attention": "Layer 0 must keep one attention group: the cache of the model asks it for its length.",
    "method_unknown": "There is no importance method {method!r}; use one of: {choices}.",
    "scores_not_finite": "The score of layer {layer}, {group_type} group {group} is not a finite number. Try float32, or "
    "check the weights.",
    "rounds_of_fixed_plan": "`iterative_steps` is {rounds}, but the plan of this experiment is not one that its settings give: "
    "it came from a file, or was made in rounds. In rounds another plan would be cut. Set `iterative_steps` to 1 to cut it as "
    "it is.",
    # repair and recovery
    "repair_not_finite": "{matrix} of layer {layer} could not be repaired: what enters it is not finite, or is 0 everywhere. "
    "Try float32, or other calibration text.",
    "training_not_finite": "The loss of training is not a number at step {step}. Lower finetune_lr, which is "
    "{learning_rate:g}, or raise finetune_warmup.",
    "training_diverged": "The loss of training rose from {first:.3g} to {loss:.3g} by step {step}. Lower finetune_lr, which is "
    "{learning_rate:g}, or raise finetune_max_rise.",
    "training_memory": "Out of memory while training. Lower finetune_batch_size (raise finetune_accumulation by as much: the "
    "result stays), set gradient_checkpointing, or lower finetune_seq_len.",
    "training_text_short": "The training text {corpus} has a single window of {seq_len} tokens. Give more text, or lower "
    "finetune_seq_len.",
    "dry_run_launched": "`dry_run` measures in one process: start it without a launcher.",
    "text_shared": "{learned} is the text to learn from and also `eval_corpus`: the reported perplexity is of text that the "
    "model has seen. Give another `eval_corpus`.",
    "recover_nothing": "There is nothing to do: recovery needs `reconstruct`, `finetune`, or both.",
    "training_given_up": "A training that was stopped after step {step} of {steps} would be given up: this one differs in "
    "{differs}. Continue that one (--resume, or the same settings), or give it up: --overwrite.",
    "repair_replaces": "The experiment holds a trained model, and a repair alone would replace it. Ask for a training too: "
    "--reconstruct --finetune. Or give it up: --overwrite.",
    "lora_targets": "`lora_targets` is {targets!r}, and the cut model has none of these left. It has: {choices}.",
    # analysis
    "analysis_model": "{model!r} is neither a model folder, a pytorch_model.bin, demo, nor an experiment under {root}. Check "
    "the spelling, or give --output_root.",
    "analysis_no_model": "The experiment {name!r} holds no saved model. Cut it with --save_model.",
    "analysis_other_weights": "{folder} holds other weights too, which are loaded before {file}. Name the folder, or "
    "give {file} a folder of its own, with its config.json and tokenizer.",
    "analysis_pair": "{given} was given, {missing} was not: both are needed to compare.",
    "analysis_arguments": "{message}.",
    "analysis_no_plan": "{model} has no plan.json, so it does not say which layers went. Give --plan.",
    "analysis_other_model": "{pruned} cannot come from {original}: {reason}.",
    "lm_eval_missing": "Zero-shot tasks need lm-eval, which is not installed. Install it: pip install -r requirements-eval.txt",
    "lm_eval_task": "The task {task!r} cannot be used: {reason}.",
    # steps and jobs
    "cancelled": "Cancelled.",
    "worker_died": "The worker process died ({reason}). If memory ran out, lower gradient_batch_size or seq_len, or choose a "
    "smaller model; then start again.",
    "worker_lost": "The process of this job is gone: it was stopped, or killed when memory ran out. Start it again; if "
    "memory ran out, lower gradient_batch_size or seq_len first.",
    "step_needs": "{step} needs {needed} first.",
    "disk_full": "There is not enough space under {folder}: {needed} needed, {free} free. Free some space and try again.",
    "disk_write": "{path} could not be written: {reason}. Nothing was left behind.",
    "disk_delete": "{path} could not be deleted: {reason}. What is left of it can be deleted by hand.",
    "export_mismatch": "The exported model does not give the logits of the cut model (largest difference {difference:.2e}); "
    "it is not offered for download.",
    "export_not_original": "The exported model is not what the plan leaves of the original files: {fault}. It is not offered "
    "for download.",
    "export_foreign": "{folder} holds something that this program did not write: {found}. It is not exported. Remove "
    "it, or cut again.",
    "export_memory": "Checking this format does not fit into memory: {needed} needed, {free} free. Free some memory, or take "
    "the saved folder as it is.",
    "export_llama_cpp": "llama.cpp reads the exported file differently: it continues as the cut model for {equal} of {tokens} "
    "{tokens:token|tokens} only. The file is not offered for download.",
    "export_reload": "The exported model could not be loaded again in a fresh process: {reason}",
    # formats
    "needs_safetensors": "{folder} holds no safetensors files, which are read tensor by tensor. Save the model as safetensors "
    "first.",
    "format_unknown": "There is no export format {name!r}; use one of: {formats}.",
    "format_needs_model": "`save_format` asks for {formats}, which is made from the saved model. Add --save_model.",
    "shard_size": "`max_shard_size` is {value!r}; write a size such as 5GB or 500MB.",
    "plan_not_this_model": "{path} does not describe the saved model, or does not say which model it was made for. Cut again.",
    "target_exists": "{path} is there already. Name another place, or remove it first.",
    "hub_name": "{name!r} cannot name a repository of the hub: write owner/name, with letters, digits, '.', '_' and '-'.",
    "hub_number_format": "{name} is not uploaded: the repository holds the folder as it was saved. Leave {name} out, or cut "
    "with `save_dtype`.",
    "hub_token_missing": "Uploading needs a Hugging Face token with write access: type it on the Export page, or start with "
    "HF_TOKEN=... in the environment. It is not written anywhere.",
    "hub_token_form": "The Hugging Face token holds characters that no token has: copy it again, on one line.",
    "hub_token_wrong": "The hub does not let this token write to {repository} (answer {status}). Check the token, that it may "
    "write, and the owner's name. Nothing was uploaded.",
    "hub_no_answer": "The hub could not be reached ({reason}). Nothing was uploaded.",
    "hub_refused": "The hub did not take the upload to {repository} (answer {status}). Try again later.",
    "bin_without_shape": "{path} does not say what model it holds, so it cannot be rebuilt. Load it into a model of your own "
    "with torch.load(..., weights_only=True), or export it again.",
    "gguf_qwen3_sizes": "GGUF cannot hold this model: its layers differ in size, and llama.cpp's architecture for that (deci) "
    "lacks the per-head norms of Qwen3. Choose the Hugging Face folder or pytorch_model.bin, or cut with uniform.",
    "gguf_qwen3_bias": "GGUF cannot hold this model: llama.cpp's qwen3 architecture has no attention biases. Choose the "
    "Hugging Face folder or pytorch_model.bin.",
    "gguf_activation": "GGUF cannot hold this model: llama.cpp computes silu in these MLPs, this model uses {found}. Choose "
    "the Hugging Face folder or pytorch_model.bin.",
    "gguf_rope": "GGUF cannot hold this model: its rotary embedding is of the type {found!r}, llama.cpp knows {known} here. "
    "Choose the Hugging Face folder or pytorch_model.bin.",
    "gguf_rope_setting": "GGUF cannot hold this model: llama.cpp has no field for `{name}` {found} of its rotary embedding. "
    "Choose the Hugging Face folder or pytorch_model.bin.",
    "gguf_tokenizer": "GGUF cannot hold this tokenizer: llama.cpp has no fields for the way it splits text ({found}). Choose "
    "the Hugging Face folder or pytorch_model.bin.",
    "gguf_vocabulary": "GGUF cannot hold this tokenizer: it has {tokens:,} tokens, the model {rows:,} rows of embeddings. "
    "Choose the Hugging Face folder.",
    "gguf_overflow": "{name} has values too large for F16. Choose BF16 or F32.",
    "gguf_differs": "{path} is not what was written: {what} differs.",
    "unexpected": "An unexpected error occurred: {reason}. The log has the details.",
}


def first_line(error: BaseException) -> str:
    """What an error says, short enough for a sentence; its type when it says nothing."""
    text = str(error).strip()
    return text.splitlines()[0][:300] if text else type(error).__name__


class PruningError(Exception):
    """A fault the user can mend. `code` is a key of MESSAGES, `values` fill its sentence."""

    def __init__(self, code: str, **values):
        self.code = code
        self.values = values
        super().__init__(code, values)

    @property
    def content(self) -> dict:
        """What a JSON file keeps of it: the code, the values as numbers or text, and the English sentence."""
        plain = {name: value.item() if hasattr(value, "item") else value for name, value in self.values.items()}
        values = {name: value if isinstance(value, int | float | str) else str(value) for name, value in plain.items()}
        return {"code": self.code, "values": values, "message": str(self)}

    def __str__(self) -> str:
        return FORMATTER.format(MESSAGES[self.code], **self.values)

    def __reduce__(self):
        return _rebuild, (self.code, self.values)


def _rebuild(code: str, values: dict) -> PruningError:
    return PruningError(code, **values)


class Cancelled(PruningError):
    """The person asked the running job to stop."""

    def __init__(self):
        super().__init__("cancelled")

    def __reduce__(self):
        return Cancelled, ()
