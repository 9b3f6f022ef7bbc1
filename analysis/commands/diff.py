"""Every matrix before and after a cut: between two models, or what a plan would do to a model or a config alone.

The exit code is 1 when a check fails.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from pruning.errors import PruningError
from pruning.experiment import PLAN_FILE, RESULT_FILE, Experiment
from pruning.files import read_json, write_csv
from pruning.planning.matrices import Check, actual_matrix_table, checks, layer_table, matrix_table, other_tensors
from pruning.planning.plan import PruningPlan
from pruning.words import readable_size

from ..diff_summary import by_kind, by_module, in_chinese, plan_implied_by, shared_retention, total
from ..model_files import ModelFiles, from_config, open_experiment, open_files, source_of
from .arguments import add_json, add_output_root, add_plan_flags, add_sources, has_plan, plan_of
from .output import as_json, count, percent, text_table

FAILED = 1
_AGAINST_A_PLAN = ("check.planned", "check.total")
_SHARES = {"retention": percent, "sparsity": percent}
_SIZES = {"params_before": count, "params_after": count, "bytes_before": readable_size, "bytes_after": readable_size}


@dataclass(frozen=True)
class Difference:
    """A cut and what it did. `planned` is False where no plan.json says what was wanted, only the shapes are known."""

    before: ModelFiles
    after: str
    plan: PruningPlan
    matrices: pd.DataFrame
    planned: bool
    others: tuple[str, ...] | None = None  # tensors of the cut model that are no matrix of the table; None without its files

    @property
    def checks(self) -> list[Check]:
        found = checks(self.plan, self.matrices, self.others)
        return found if self.planned else [check for check in found if check.key not in _AGAINST_A_PLAN]

    @property
    def passed(self) -> bool:
        return all(check.passed for check in self.checks)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_sources(parser)
    parser.add_argument("--config", metavar="FILE", help="A config.json instead of --original_model: no weights are needed.")
    parser.add_argument("--output", default=RESULT_FILE, metavar="FILE", help=f"The table as CSV. Default: {RESULT_FILE}.")
    parser.add_argument("--language", choices=("en", "zh"), default="en", help="Column names of the CSV. Default: en.")
    parser.add_argument("--matrices", action="store_true", help="Print every matrix too, not only to the CSV.")
    add_output_root(parser)
    add_json(parser)
    add_plan_flags(parser)


def run(args: argparse.Namespace) -> int:
    """Prints the difference and writes the CSV; returns the exit code."""
    difference = _difference(args)
    write_table(difference.matrices, Path(args.output).expanduser(), args.language)
    if args.json:
        print(as_json(_content(difference)))
    else:
        show(difference, args.matrices)
        print(f"\n{len(difference.matrices)} matrices are in {args.output}.")
    return 0 if difference.passed else FAILED


def between(before: ModelFiles, after: ModelFiles, plan: PruningPlan | None) -> Difference:
    """The difference of two models; without a plan, only what their shapes say."""
    if before.shape is None:
        raise PruningError("no_config", folder=before.header.folder)
    implied = plan or plan_implied_by(before.shape, after.header, after.name)
    matrices = actual_matrix_table(before.header, after.header, implied)
    return Difference(before, after.name, implied, matrices, plan is not None, other_tensors(after.header, implied))


def predicted(before: ModelFiles, plan: PruningPlan) -> Difference:
    """What a plan would do."""
    return Difference(before, "what the plan would leave", plan, matrix_table(plan, before.bytes_per_parameter), True)


def of_experiment(experiment: Experiment, output_root: str) -> Difference:
    """What the experiment's plan did, from the files of its model where it was saved, else from the plan."""
    before, plan = source_of(experiment), experiment.read_plan()
    if not experiment.is_saved:
        return predicted(before, plan)
    return between(before, open_files(str(experiment.folder), output_root), plan)


def write_table(matrices: pd.DataFrame, path: Path, language: str) -> None:
    write_csv(path, in_chinese(matrices) if language == "zh" else matrices)


def _difference(args: argparse.Namespace) -> Difference:
    if args.original_model and args.config:
        raise PruningError("settings_exclusive", first="original_model", second="config")
    if args.pruned_model is None:
        if not (args.original_model or args.config):
            raise PruningError("analysis_arguments", message="Give --original_model or --config, and --pruned_model or --plan")
        if not has_plan(args):
            raise PruningError(
                "analysis_arguments", message="Give --pruned_model, --plan, or settings such as --pruning_ratio 0.25"
            )
        before = _before(args)
        return predicted(before, plan_of(args, before))
    if args.original_model is None and args.config is None:
        if has_plan(args):
            raise PruningError("analysis_pair", given="--pruned_model", missing="--original_model")
        return of_experiment(open_experiment(args.pruned_model, args.output_root), args.output_root)
    before, after = _before(args), open_files(args.pruned_model, args.output_root)
    return between(before, after, plan_of(args, before) if has_plan(args) else _plan_beside(after, before))


def _before(args: argparse.Namespace) -> ModelFiles:
    before = from_config(args.config) if args.config else open_files(args.original_model, args.output_root)
    if before.shape is None:
        raise PruningError("no_config", folder=before.header.folder)
    return before


def _plan_beside(after: ModelFiles, before: ModelFiles) -> PruningPlan | None:
    """The plan.json in the folder of the cut model; None where there is none, or it was made for another model."""
    path = after.header.folder / PLAN_FILE
    if not path.is_file():
        return None
    try:
        return PruningPlan.from_json(read_json(path, None), before.shape, before.fingerprint, path)
    except PruningError as error:
        if error.code not in ("plan_other_model", "plan_other_size"):
            raise
        return None


# on the terminal ------------------------------------------------------------------------------------------------------


def show(difference: Difference, every_matrix: bool = False) -> None:
    """Prints layers, kinds, modules, the whole, shared retention and checks."""
    matrices = difference.matrices
    print(f"{difference.before.name} -> {difference.after}\n")
    if every_matrix:
        print(text_table(matrices, _SHARES | _SIZES) + "\n")
    print(text_table(_layers(difference), {"sparsity": percent, "planned": percent, "before": count, "after": count}))
    for table in (by_kind(matrices), by_module(matrices).drop(columns="kind")):
        print("\n" + text_table(table, _SHARES | _SIZES))
    whole = total(matrices)
    print(
        f"\nwhole model  {whole['params_before']:,.0f} -> {whole['params_after']:,.0f} parameters, "
        f"{readable_size(int(whole['bytes_before']))} -> {readable_size(int(whole['bytes_after']))}, "
        f"retention {whole['retention']:.2%}, sparsity {whole['sparsity']:.2%}"
    )
    for shared in shared_retention(matrices):
        print(_retention_sentence(shared))
    print()
    for check in difference.checks:
        print(check_sentence(check))
    if not difference.planned:
        print("There is no plan.json made for this model, so sizes are not compared with a plan.")


def check_sentence(check: Check) -> str:
    return f"{'pass' if check.passed else 'FAIL'}  {check.sentence()}"


def _layers(difference: Difference) -> pd.DataFrame:
    table = layer_table(difference.plan, difference.matrices)
    shown = pd.DataFrame({"layer": table["layer_idx"]})
    for kind, name in (("attention_groups", "KV heads"), ("mlp_channels", "MLP width")):
        pairs = zip(table[f"{kind}_before"], table[f"{kind}_kept"], strict=True)
        shown[name] = [f"{before} -> {after}" if before != after else str(before) for before, after in pairs]
    shown["before"], shown["after"], shown["sparsity"] = table["params_before"], table["params_after"], table["sparsity"]
    return shown.assign(planned=table["planned_sparsity"]) if difference.planned else shown


def _retention_sentence(shared) -> str:
    if not shared.layers:
        return f"{shared.kind}: nothing was cut"
    if shared.is_shared:
        cut = "the only cut layer keeps" if len(shared.layers) == 1 else f"all {len(shared.layers)} cut layers keep"
        return f"{shared.kind}: {cut} {shared.retention:.2%}"
    others = ", ".join(f"{layer}: {value:.2%}" for layer, value in shared.outliers.items())
    if shared.retention is None:
        return f"{shared.kind}: no two of the {len(shared.layers)} cut layers keep the same share ({others})"
    same = len(shared.layers) - len(shared.outliers)
    return f"{shared.kind}: {same} of {len(shared.layers)} cut layers keep {shared.retention:.2%}; others are {others}"


def _content(difference: Difference) -> dict:
    matrices = difference.matrices
    return {
        "before": difference.before.name,
        "after": difference.after,
        "total": total(matrices),
        "kinds": by_kind(matrices),
        "modules": by_module(matrices),
        "layers": layer_table(difference.plan, matrices),
        "retention": [vars(shared) | {"shared": shared.is_shared} for shared in shared_retention(matrices)],
        "checks": [{"key": check.key, "passed": check.passed, "layers": list(check.layers)} for check in difference.checks],
        "matrices": matrices,
        "plan_known": difference.planned,
    }
