"""One experiment as one HTML page: settings, figures, charts, tables, texts. It needs no network and no other file.

    write_report(Experiment.open("prune_log", "demo-global"), Path("report.html"))

What an experiment does not have yet is left out. The page's frame is `report.html`; charts are those of the app, drawn by the
plotly.js that the Python package carries. All that comes from the experiment is escaped, and the page's own policy forbids
it to load anything.
"""

from collections.abc import Iterable
from html import escape
from pathlib import Path

import pandas as pd
import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from pruning.experiment import SAMPLES_FILE, TABLE_FILE, Experiment, read_matrices, write_whole
from pruning.experiment_table import FROM_FILE, method_of_plan, protection_of, settings_of_plan
from pruning.files import naming_damage
from pruning.planning.checkpoint_header import BYTES_PER_PARAMETER
from pruning.planning.matrices import checks, layer_table
from pruning.planning.plan import PruningPlan, plan_totals
from pruning.planning.protection import Protection
from pruning.settings import SETTINGS, defaults_of
from pruning.words import readable_size

from . import charts
from .catalogue import english
from .charts import Translate

_FRAME = Path(__file__).with_suffix(".html")
_STAGES = ("before", "after", "repaired", "recovered")


def write_report(experiment: Experiment, path: Path) -> None:
    """Writes the page, about 5 MB; raises PruningError when the experiment cannot be read or the file not be written."""
    write_whole(path, html_page(experiment))


def html_page(experiment: Experiment, t: Translate | None = None) -> str:
    """The page as text, in the words of `t` (default: English)."""
    with naming_damage(experiment.folder):
        return _html_page(experiment, t or english)


def _html_page(experiment: Experiment, t: Translate) -> str:
    page = _Page(t)
    page.add(f"<h1>{escape(experiment.name)}</h1>")
    page.add(_about(experiment, t))
    plan = experiment.read_plan() if experiment.is_planned else None
    metrics = experiment.metrics()
    if plan is not None:
        page.add(_strip(experiment, plan, metrics, t))
    _perplexity(page, metrics)
    _result(page, experiment, plan)
    if plan is not None:
        _plan(page, experiment, plan)
    _importance(page, experiment)
    _texts(page, experiment)
    _settings(page, experiment)
    return page.in_frame(experiment.name)


class _Page:
    """Parts of the body in their order, and the figures that its places wait for."""

    def __init__(self, t: Translate):
        self.t, self._parts, self._figures = t, [], []

    def add(self, part: str) -> None:
        self._parts.append(part)

    def title(self, key: str) -> None:
        self.add(f"<h2>{escape(self.t(key))}</h2>")

    def note(self, text: str) -> None:
        self.add(f'<p class="faint">{escape(text)}</p>')

    def chart(self, figure: go.Figure, alt_key: str) -> None:
        """A place for the figure; its height is taken before the script runs."""
        height = f"height: {figure.layout.height}px"
        alt = escape(self.t(alt_key), quote=True)
        self.add(f'<figure class="chart"><div role="img" aria-label="{alt}" style="{height}"></div></figure>')
        self._figures.append(figure.to_json(validate=False))

    def in_frame(self, title: str) -> str:
        figures = f"[{','.join(self._figures)}]".replace("<", "\\u003c")  # no text of a figure can end the script
        values = {
            "title": escape(self.t("report.title", name=title)),
            "language": self.t("report.language"),
            "body": "\n".join(self._parts),
            "plotly": get_plotlyjs(),
            "figures": figures,
        }
        before, *rest = _FRAME.read_text(encoding="utf-8").split("{{")
        pieces = [before]
        for piece in rest:  # one walk over the frame: what is filled in is never searched for names again
            name, _, after = piece.partition("}}")
            pieces += [values[name], after]
        return "".join(pieces)


def _about(experiment: Experiment, t: Translate) -> str:
    description, settings = experiment.description(), experiment.settings
    versions = ", ".join(f"{name} {version}" for name, version in description.get("versions", {}).items())
    if experiment.source_file:
        plan_settings = settings_of_plan(experiment)
        line = t(
            "report.about.file",
            model=settings.base_model,
            file=Path(experiment.source_file).name,
            method=method_of_plan(experiment),
            strategy=plan_settings.strategy if plan_settings else FROM_FILE,
        )
        return _with_versions(line, versions)
    line = t(
        "report.about",
        model=settings.base_model,
        method=settings.importance_method,
        strategy=settings.strategy,
        num_samples=settings.num_samples,
        seq_len=settings.seq_len,
        corpus=settings.corpus,
    )
    return _with_versions(line, versions)


def _with_versions(line: str, versions: str) -> str:
    return f'<p>{escape(line)}</p><p class="faint">{escape(versions)}</p>'


def _strip(experiment: Experiment, plan: PruningPlan, metrics: dict, t: Translate) -> str:
    """What was asked, what the plan takes, what is left."""
    totals = plan_totals(plan, BYTES_PER_PARAMETER.get(experiment.description()["model"]["dtype"], 4))
    sizes = metrics.get("size_bytes", {})
    asked = plan.settings.get("pruning_ratio")
    target = (f"{asked:.2%}", t(f"basis.{plan.target_basis}")) if asked is not None else ("-", t("plan.target.none"))
    cells = [
        (t("plan.target"), *target),
        (t("plan.actual"), f"{plan.actual_ratio:.2%}", t("basis.model")),
        (t("plan.parameters"), f"{totals.parameters_after:,}", f"-{totals.parameters_removed:,}"),
        (t("plan.size"), readable_size(sizes.get("after", totals.bytes_after)), f"-{readable_size(totals.bytes_removed)}"),
        (t("plan.heads_removed"), f"{totals.attention_groups_removed:,}", ""),
        (t("plan.channels_removed"), f"{totals.mlp_channels_removed:,}", ""),
        (t("plan.layers_removed"), str(totals.layers_removed), ""),
        (t("plan.by_hand"), f"{len(plan.by_hand):,}", ""),
    ]
    shown = (
        f"<div><dt>{escape(label)}</dt><dd>{escape(value)}</dd><small>{escape(basis)}</small></div>"
        for label, value, basis in cells
    )
    return f'<dl class="strip">{"".join(shown)}</dl>'


def _perplexity(page: _Page, metrics: dict) -> None:
    measured = {stage: values for stage in _STAGES if (values := (metrics.get("perplexity") or {}).get(stage))}
    if not measured:
        return
    t = page.t
    page.title("report.perplexity")
    if basis := metrics.get("basis"):
        page.note(t("prune.perplexity.basis", **basis))
        page.note(t("report.corpus", digest=basis.get("corpus_sha256") or "-"))
    rows = [
        (t(f"chart.stage.{stage}"), dataset, t("prune.infinite") if value is None else f"{value:,.4f}")
        for stage, values in measured.items()
        for dataset, value in values.items()
    ]
    page.add(_table([t("report.stage"), t("report.dataset"), t("chart.perplexity.axis")], rows, numbers={2}))
    page.chart(charts.perplexity_bars(metrics, t), "prune.perplexity.alt")


def _result(page: _Page, experiment: Experiment, plan: PruningPlan | None) -> None:
    """What the cut gave: sparsity of layers, checks, and before and after of every module."""
    if plan is None or not experiment.is_cut:
        return
    t, matrices = page.t, read_matrices(experiment)
    layers = layer_table(plan, matrices)
    page.title("report.result")
    page.chart(charts.sparsity_bars(layers, plan, t), "prune.sparsity.alt")
    marks = (
        f'<li class="{"pass" if check.passed else "fail"}">{escape(check.sentence(t))}</li>' for check in checks(plan, matrices)
    )
    page.add(f'<ul class="checks">{"".join(marks)}</ul>')
    page.title("report.modules")
    page.add(_before_after(matrices.groupby("module", sort=False), t("table.module"), t))
    page.title("report.layers")
    heads = [t("table.layer"), *(t(f"report.{name}") for name in ("heads", "kv_heads", "channels")), t("table.sparsity")]
    rows = [
        (
            str(row.layer_idx),
            _change(row.query_heads_before, row.query_heads_after),
            _change(row.attention_groups_before, row.attention_groups_kept),
            _change(row.mlp_channels_before, row.mlp_channels_kept),
            f"{row.sparsity:.2%}",
        )
        for row in layers.itertuples()
    ]
    page.add(_table(heads, rows, numbers={1, 2, 3, 4}))


def _plan(page: _Page, experiment: Experiment, plan: PruningPlan) -> None:
    known = protection_of(experiment, plan.shape, settings_of_plan(experiment))
    t, protection = page.t, known or Protection.none(plan.shape.num_layers)
    page.title("report.plan")
    page.chart(charts.pruning_rates(plan, protection, t), "plan.rates.alt")
    page.chart(charts.groups_cut(plan, t), "plan.groups.alt")
    page.chart(charts.removed_parameters(plan, t), "plan.removed.alt")
    page.chart(charts.balance(plan, t), "plan.balance.alt")
    if experiment.has(TABLE_FILE):
        page.chart(charts.score_curve(experiment.read_table(), plan, protection, t), "plan.curve.alt")


def _importance(page: _Page, experiment: Experiment) -> None:
    if not experiment.is_measured:
        return
    page.title("report.importance")
    layers = experiment.read_layer_importance()
    if layers is not None:
        page.chart(charts.layer_importance_bars(layers, page.t), "report.layer_importance.alt")
    page.chart(charts.group_importance_bars(experiment.read_table(), page.t), "importance.layers.alt")


def _texts(page: _Page, experiment: Experiment) -> None:
    if not experiment.has(SAMPLES_FILE):
        return
    t, samples = page.t, experiment.samples()
    page.title("prune.samples")
    page.note(t("prune.samples.basis"))
    page.add(f"<pre>{escape(samples['prompt'])}</pre>")
    sides = (
        f"<div><strong>{escape(t(f'chart.stage.{stage}'))}</strong><pre>{escape(samples[stage])}</pre></div>"
        for stage in _STAGES
        if stage in samples
    )
    page.add(f'<div class="texts">{"".join(sides)}</div>')


def _settings(page: _Page, experiment: Experiment) -> None:
    """Those that differ from their default at once, all of them behind a click."""
    t, settings = page.t, experiment.settings.as_dict()
    defaults = defaults_of(settings["strategy"]).as_dict()
    changed = [name for name in settings if settings[name] != defaults[name]]
    page.title("report.settings.changed")
    heads = [t("report.setting"), t("report.value"), t("report.meaning")]
    page.add(_table(heads, _setting_rows(settings, changed, t)))
    every = _table(heads, _setting_rows(settings, settings, t))
    page.add(f"<details><summary>{escape(t('report.settings.all'))}</summary>{every}</details>")


def _setting_rows(settings: dict, names: Iterable[str], t: Translate) -> list[tuple[str, str, str]]:
    return [
        (name, "-" if settings[name] is None else str(settings[name]), t(f"help.{name}") if name in SETTINGS else "")
        for name in names
    ]


# tables ---------------------------------------------------------------------------------------------------------------


def _table(heads: Iterable[str], rows: Iterable[Iterable[str]], numbers: frozenset[int] | set[int] = frozenset()) -> str:
    """An HTML table of texts, all escaped; columns in `numbers` are set to the right."""

    def row(tag: str, cells: Iterable[str]) -> str:
        marked = (f"<{tag}{' class=number' * (i in numbers)}>{escape(cell)}</{tag}>" for i, cell in enumerate(cells))
        return f"<tr>{''.join(marked)}</tr>"

    body = "".join(row("td", cells) for cells in rows)
    return f'<div class="wide"><table><thead>{row("th", heads)}</thead><tbody>{body}</tbody></table></div>'


def _before_after(groups, head: str, t: Translate) -> str:
    columns = ["params_before", "params_after", "bytes_before", "bytes_after"]
    sums: pd.DataFrame = groups[columns].sum()
    sums.loc[t("report.all")] = sums.sum()
    rows = [
        (
            name,
            f"{row.params_before:,}",
            f"{row.params_after:,}",
            readable_size(row.bytes_before),
            readable_size(row.bytes_after),
            f"{1 - row.params_after / row.params_before:.2%}",
        )
        for name, row in sums.astype(int).iterrows()
    ]
    return _table([head, *(t(f"table.{column}") for column in columns), t("table.sparsity")], rows, numbers=set(range(1, 6)))


def _change(before: int, after: int) -> str:
    return f"{before:,}" if before == after else f"{before:,} → {after:,}"
