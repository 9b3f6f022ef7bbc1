"""The steps of the road: load -> measure -> plan -> cut -> describe -> evaluate -> save. Each reads and writes the folder.

    measure   description.txt            ->  global_group_table.csv, layer_importance_config.json
    try       plans that are asked for   ->  trials.json: masked perplexity of each
    learn     what is asked for          ->  sensitivity/: what cuts do to the loss, masked
    prune     table, plan.json           ->  pruning_analysis.csv, metrics.json, samples.json, model/
    recover   model/                     ->  model/ (the cut one goes to cut_model/), recovery.json, adapter/, repair.json
    cost      model/, request.json       ->  recovery_cost.json: what the training asked for would take
    pack      model/                     ->  model.zip
    export    model/, request.json       ->  *.gguf, pytorch_model.bin, model-<dtype>/

The app runs them one by one in its worker; the command line runs them in one go. Same steps, same files.
"""

from collections.abc import Callable
from dataclasses import replace

from ..experiment import Experiment
from ..strategies import STRATEGIES
from .context import Run
from .cut import apply, baseline, prune, whole_run
from .export import export, pack
from .measure import measure
from .permissions import Permissions
from .progress import Progress
from .recover import measure_cost, recover
from .requests import arguments_of
from .sensitivity.run import measure_sensitivity
from .status import BASELINE, CUTS, MEASURE
from .try_plans import try_plans

JOBS: dict[str, Callable[[Run], None]] = {
    "measure": measure,
    "prune": prune,
    "recover": recover,
    "cost": measure_cost,
    "pack": pack,
    "export": export,
    "try": try_plans,
    "learn": measure_sensitivity,
    "apply": apply,
    "baseline": baseline,
} | dict.fromkeys(STRATEGIES, whole_run)
# Jobs that measure or cut; the others use the result.
ROAD = (MEASURE, *CUTS, BASELINE)


def run(
    kind: str, experiment: Experiment, console: bool = False, permissions: Permissions = Permissions(), resume: bool = False
) -> None:
    """Runs one kind of job on an experiment whose settings and request are written; how it ends stands in `job.json`.

    Raises PruningError for whatever went wrong. `resume` continues from the last step that was finished.
    """
    with Progress(experiment, kind, console) as progress:
        if kind in ROAD:
            experiment.write_job(kind)
        settings, asked = replace(experiment.settings, resume=resume), arguments_of(experiment, kind)
        JOBS[kind](Run(experiment, settings, progress, permissions, asked))
        if progress.seconds and kind in (*ROAD, "recover"):  # an export later does not make the cut's saving take longer
            experiment.update_metrics(seconds={name: round(s, 3) for name, s in progress.seconds.items()})
