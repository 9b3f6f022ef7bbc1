"""What can go wrong, as sentences for the person who has to act on it.

Every error that is the user's to mend is a `PruningError`: a code, the values seen, and one English sentence made from
both. The command line prints the sentence and ends with 2; the app shows it, or its translation looked up by the code.
Knows nothing about where the sentence ends up.
"""

MESSAGES = {
    # settings
    "setting_unknown": "There is no setting `{name}`{suggestion}.",
    "setting_type": "`{name}` is {value!r}; it must be {expected}.",
    "setting_range": "`{name}` is {value}; it must be {expected}.",
    "setting_choice": "`{name}` is {value!r}; it must be one of: {choices}.",
    "setting_conflict": "`{name}` was given twice with different values: {first} and {second}. Keep one.",
    "unexpected_flag": "{message}. See --help.",
    "setting_missing": "`{name}` is required.",
    "settings_exclusive": "`{first}` and `{second}` cannot be used together; `{first}` replaces `{second}`.",
    "experiment_name": "The experiment name {name!r} cannot be a folder name: use letters, digits, '.', '_' and '-', "
    "at most 120 of them, not starting with a dot.",
    "experiment_exists": "The experiment {name!r} exists already. Choose another name, or pass --overwrite to replace it.",
    "experiment_foreign": "{folder} exists and is not an experiment, so it is not replaced. Choose another name.",
    "experiment_unknown": "There is no experiment {name!r} under {root}.",
    "experiment_busy": "The experiment {name!r} is being worked on by another job. Wait for it or cancel it first.",
    "format_version": "{path} has format version {found}; this version reads {expected}. Make it again.",
    "file_broken": "{path} cannot be read: {reason}. Make it again.",
    # checkpoints
    "model_not_found": "{model!r} is neither a folder here nor a Hugging Face id (owner/name). Check the spelling; "
    "`demo` is the built-in model.",
    "path_outside_roots": "{path} lies outside the allowed folders ({roots}).",
    "hub_unreachable": "{model!r} could not be fetched from the Hugging Face hub ({reason}). Without a network, choose the "
    "demo model or a local folder.",
    "hub_gated": "{model!r} is gated or private: ask for access on its page, then enter a token or set HF_TOKEN.",
    "no_config": "{folder} has no config.json, so it is not a model folder. Choose the folder that holds config.json and the "
    "weights.",
    "config_broken": "{path} is not valid JSON ({reason}). Fetch the file again.",
    "architecture": "The architecture {found!r} is not supported. Supported are: {supported}.",
    "config_value": "config.json gives `{name}` as {value!r}; it must be {expected}.",
    "no_weights": "{folder} holds no weights (no .safetensors and no pytorch_model.bin).",
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
    "corpus_empty": "The corpus {corpus} holds no text.",
    "corpus_short": "The text of {corpus} has {tokens} tokens, less than one window of {seq_len}. Give more text or lower "
    "seq_len.",
    "seq_len_too_long": "`seq_len` is {seq_len}; this model sees at most {limit} tokens at once.",
    # planning
    "layer_unknown": "There is no layer {layer}: this model has the layers 0 to {last}.",
    "layer_list": "{text!r} is not a list of layers. Write for example 0-2,17,30-31, or none.",
    "layer_range": "`{first}` is {start} and `{second}` is {end}; they must satisfy 0 <= {first} < {second} <= {layers}.",
    "all_protected": "Every layer is protected, so nothing can be cut. Protect fewer layers.",
    "ratio_unreachable": "{ratio:.4g} of {basis} cannot be removed: with this protection and these floors at most "
    "{largest:.4f} can. Lower the ratio, protect fewer layers, or allow empty layers.",
    "nothing_to_cut": "The ratio {ratio:.4g} leaves no room for the first group to go ({cost:,} parameters), so nothing "
    "would be cut. Raise the ratio.",
    "split": "`pruning_distribution` is {value!r}; write auto, or attention:MLP shares such as 2:8.",
    "split_unreachable": "The split {split} asks for {asked:,} parameters of {kind}; only {largest:,} can be removed.",
    "table_columns": "{path} lacks the column {column!r}; it needs: {columns}.",
    "table_row": "{path}, row {row}: {reason}.",
    "plan_other_model": "{path} was made for another model (fingerprint {found}, this model has {expected}).",
    "plan_groups": "{path}, layer {layer}: {reason}.",
    "first_layer_attention": "Layer 0 must keep one attention group: the cache of the model asks it for its length.",
    "method_unknown": "There is no importance method {method!r}; use one of: {choices}.",
    "scores_not_finite": "The score of layer {layer}, {group_type} group {group} is not a finite number. Try float32, or "
    "check the weights.",
    # steps and jobs
    "cancelled": "Cancelled.",
    "worker_died": "The worker process died ({reason}). If memory ran out, lower gradient_batch_size or seq_len, or choose a "
    "smaller model; then start again.",
    "worker_lost": "The process that ran this job is gone: it was stopped, or killed when memory ran out. Start it again; if "
    "memory ran out, lower gradient_batch_size or seq_len first.",
    "step_needs": "{step} needs {needed} first.",
    "disk_full": "There is not enough space under {folder}: {needed} needed, {free} free. Free some space and try again.",
    "disk_write": "{path} could not be written: {reason}. Nothing was left behind.",
    "export_mismatch": "The exported model does not give the logits of the pruned model (largest difference {difference:.2e}); "
    "it is not offered for download.",
    "export_reload": "The exported model could not be loaded again in a fresh process: {reason}",
    "unexpected": "Something went wrong that this program did not foresee: {reason}. The log has the details.",
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

    def __str__(self) -> str:
        return MESSAGES[self.code].format(**self.values)

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
