"""Two experiments in detail: settings that differ, sizes of layers, what their models write."""

import streamlit as st

from analysis import charts
from pruning.errors import PruningError
from pruning.experiment import SAMPLES_FILE, Experiment
from pruning.experiment_table import ExperimentTable, bases, differing_settings, kept_sizes
from ui import workspace, written_texts
from ui.page_frame import chart
from ui.translation import error_text, plain, t, words

_TEXT_HEIGHT = 260


def show(found: ExperimentTable) -> None:
    """Two pickers (the open experiment and the newest other one come first) and what differs."""
    names = list(found.rows[found.rows["model"].notna()]["name"])  # not those of which nothing can be read
    if len(names) < 2:
        st.info(t("compare.pair.needs_two"), icon=":material/info:")
        return
    current = workspace.current_experiment()
    if current is not None and current.name in names:
        names = [current.name, *(name for name in names if name != current.name)]
    pickers = st.columns(2)
    chosen = [
        pickers[number].selectbox(t(f"compare.pair.{side}"), names, index=number, key=f"pair_{side}:{names[0]}")
        for number, side in enumerate(("first", "second"))
    ]
    if chosen[0] == chosen[1]:
        st.info(t("compare.pair.same"), icon=":material/info:")
        return
    if len(bases(found.rows[found.rows["name"].isin(chosen)])) > 1:
        st.warning(t("compare.pair.basis_differs"), icon=":material/warning:")
    try:
        first, second = (Experiment.open(workspace.output_root(), name) for name in chosen)
        _settings(first, second)
        _sizes(first, second)
        _texts(first, second)
    except PruningError as error:
        st.error(error_text(error), icon=":material/error:")


def _settings(first: Experiment, second: Experiment) -> None:
    st.markdown(f"**{t('compare.pair.settings')}**")
    differing = differing_settings(first, second)
    if differing.empty:
        st.caption(t("compare.pair.settings.none"))
        return
    text = st.column_config.TextColumn
    st.dataframe(
        differing,
        hide_index=True,
        column_config={"setting": text(t("compare.column.setting")), "first": text(first.name), "second": text(second.name)},
        alt=t("compare.pair.settings"),
    )


def _sizes(first: Experiment, second: Experiment) -> None:
    st.markdown(f"**{t('compare.pair.sizes')}**")
    plans = [workspace.saved_plan(experiment) for experiment in (first, second)]
    missing = [e.name for e, plan in zip((first, second), plans, strict=True) if plan is None]
    if missing:
        st.caption(t("compare.pair.no_plan", names=", ".join(missing)))
        return
    same_model = plans[0].shape == plans[1].shape
    if same_model and plans[0].digest == plans[1].digest:
        st.success(t("plans.same"), icon=":material/check:")
        return
    if same_model:
        figure = charts.plan_difference(plans[0], plans[1], (first.name, second.name), words)
        chart(figure, "pair_difference", t("plans.difference.alt"))
    else:
        st.caption(t("compare.pair.other_model"))
    with st.expander(t("compare.pair.kept"), expanded=not same_model):
        number = st.column_config.NumberColumn
        names = {"first": first.name, "second": second.name}
        columns = {
            f"{kind}_{side}": number(words(f"compare.pair.kept.{kind}", name=name), format="localized")
            for kind in ("attention", "mlp")
            for side, name in names.items()
        }
        st.dataframe(
            kept_sizes(*plans),
            hide_index=True,
            column_config={"layer_idx": number(t("table.layer"))} | columns,
            alt=t("compare.pair.kept"),
        )


def _texts(first: Experiment, second: Experiment) -> None:
    st.markdown(f"**{t('compare.pair.texts')}**")
    for side, experiment in zip(st.columns(2), (first, second), strict=True):
        with side:
            st.caption(plain(experiment.name))
            if not experiment.has(SAMPLES_FILE):
                st.caption(t("compare.pair.no_text"))
                continue
            samples = experiment.samples()
            stage = written_texts.last_stage(samples)
            st.code(samples["prompt"], language=None, wrap_lines=True)
            if stage is not None:
                st.markdown(f"**{t(f'chart.stage.{stage}')}**")
                st.code(samples[stage], language=None, wrap_lines=True, height=_TEXT_HEIGHT)
