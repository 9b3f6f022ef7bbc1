"""Plans, scores and results as Plotly figures: data in, figure out.

    importance   layer_importance_bars, group_importance_bars, importance_balance, importance_heatmap, layer_groups,
                 score_distribution, rank_scatter
    plan         pruning_rates, groups_cut, score_curve, removed_parameters, balance, plan_difference
    sweep        sweep_curve, sweep_grid
    result       sparsity_bars, parameter_shares, perplexity_bars
    recovery     training_loss, recovery_perplexity, repair_errors
    compare      pareto, parallel
    sensitivity  layer_sensitivity, foresight, protection_curves, protection_grid, split_curves, matrix_corners,
                 layer_to_scale, budget_filled

Where numbers must be made first, `..._data` makes them (numpy only) and the other function draws them. Words come from `t`,
the translation function: `t("chart.rates.title", share="25 %")`. Backgrounds are transparent and colours hold on light and
dark; series differ by pattern, symbol or dash as well as by colour. Knows nothing about streamlit, torch or files.
"""

from pruning.palette import COLOURS

from .compare import parallel, parallel_filter, parallel_revision, parallel_rows, pareto, pareto_front
from .frame import HEIGHT, TALL, Translate, percent
from .importance import (
    BalanceOfLayers,
    HeatmapData,
    LayerGroupsData,
    group_importance_bars,
    importance_balance,
    importance_balance_data,
    importance_heatmap,
    importance_heatmap_data,
    layer_groups,
    layer_groups_data,
    layer_importance_bars,
    rank_scatter,
    rank_scatter_data,
    score_distribution,
    score_quantiles,
)
from .plan import (
    CurveData,
    CurvePart,
    RatesData,
    balance,
    balance_data,
    groups_cut,
    plan_difference,
    protection_reasons,
    pruning_rates,
    pruning_rates_data,
    removed_parameters,
    score_curve,
    score_curve_data,
)
from .recovery import recovery_perplexity, repair_errors, training_loss
from .result import parameter_shares, perplexity_bars, perplexity_bars_data, sparsity_bars
from .sensitivity import (
    budget_filled,
    foresight,
    layer_sensitivity,
    layer_to_scale,
    matrix_corners,
    propagation,
    protection_curves,
    protection_grid,
    protection_trained,
    split_curves,
)
from .sweep import sweep_curve, sweep_grid

__all__ = [
    "COLOURS",
    "HEIGHT",
    "TALL",
    "BalanceOfLayers",
    "CurveData",
    "CurvePart",
    "HeatmapData",
    "LayerGroupsData",
    "RatesData",
    "Translate",
    "balance",
    "balance_data",
    "budget_filled",
    "foresight",
    "group_importance_bars",
    "groups_cut",
    "importance_balance",
    "importance_balance_data",
    "importance_heatmap",
    "importance_heatmap_data",
    "layer_groups",
    "layer_groups_data",
    "layer_importance_bars",
    "layer_sensitivity",
    "layer_to_scale",
    "matrix_corners",
    "parallel",
    "parallel_filter",
    "parallel_revision",
    "parallel_rows",
    "parameter_shares",
    "pareto",
    "pareto_front",
    "percent",
    "perplexity_bars",
    "perplexity_bars_data",
    "plan_difference",
    "propagation",
    "protection_curves",
    "protection_grid",
    "protection_reasons",
    "protection_trained",
    "pruning_rates",
    "pruning_rates_data",
    "rank_scatter",
    "rank_scatter_data",
    "recovery_perplexity",
    "removed_parameters",
    "repair_errors",
    "score_curve",
    "score_curve_data",
    "score_distribution",
    "score_quantiles",
    "sparsity_bars",
    "split_curves",
    "sweep_curve",
    "sweep_grid",
    "training_loss",
]
