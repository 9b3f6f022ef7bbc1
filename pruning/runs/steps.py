"""The steps of the road: load -> measure -> plan -> cut -> describe -> evaluate -> save. Each reads and writes the folder.

    measure   description.txt            ->  global_group_table.csv, layer_importance_config.json
    try       plans that wait            ->  trials.json: masked perplexity of each
    learn     a measurement that waits   ->  sensitivity/: how cuts change the loss, masked
    prune     table, plan.json           ->  pruning_analysis.csv, metrics.json, samples.json, model/
    recover   model/                     ->  model/ (the cut one goes to cut_model/), recovery.json, adapter/, repair.json
    cost      model/                     ->  recovery_cost.json: what the training asked for would take
    pack      model/                     ->  model.zip
    export    model/, export.json        ->  *.gguf, pytorch_model.bin, model-<dtype>/

The app runs them one by one in its worker; the command line runs them in one go. Same steps, same files.
"""

from collections.abc import Callable

from ..experiment import Experiment
from .cut import apply, baseline, prune, whole_run
from .export import export, pack
from .measure import measure
from .permissions import Permissions
from .progress import RunReport
from .recover import measure_cost, recover
from .sensitivity.run import learn
from .try_plans import try_plans

JOBS: dict[str, Callable] = {
    "measure": measure,
    "prune": prune,
    "recover": recover,
    "cost": measure_cost,
    "pack": pack,
    "export": export,
    "try": try_plans,
    "learn": learn,
    "global": whole_run,
    "layer": whole_run,
    "uniform": whole_run,
    "apply": apply,
    "baseline": baseline,
}
# Jobs that measure or cut; the others use the result.
ROAD = ("measure", "prune", "global", "layer", "uniform", "apply", "baseline")


def run(
    kind: str,
    experiment: Experiment,
    console: bool = False,
    permissions: Permissions = Permissions(),
    resume: bool = False,
) -> None:
    """Runs one kind of job on an experiment whose settings are written; `job.json` says how it ended.

    Raises PruningError for whatever went wrong. `resume` continues from the last step that was finished.
    """
    with RunReport(experiment, kind, console) as report:
        if kind in ROAD:
            experiment.write_job(kind)
        JOBS[kind](experiment, report, experiment.settings | {"resume": resume}, permissions)
        if report.seconds and kind not in ("try", "cost", "learn"):  # no steps of the road
            experiment.update_metrics(seconds={name: round(s, 3) for name, s in report.seconds.items()})
