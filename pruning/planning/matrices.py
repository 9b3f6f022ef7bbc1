"""Before and after of every matrix of a pruned model, and checks that the cut is what the plan says.

    plan alone            -> matrix_table          what the cut will give; no weight is read
    headers of two folders -> actual_matrix_table  what the cut gave; only headers are read
    either                -> layer_table, checks

One row per matrix; a bias counts with its matrix. Knows nothing about torch or about the screen.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import pandas as pd

from ..errors import PruningError
from ..planning.checkpoint_header import CheckpointHeader
from ..planning.kept_indices import TensorCut, tensor_cut
from ..planning.plan import PruningPlan
from ..planning.shape import ATTENTION, MLP
from ..words import FORMATTER

COLUMNS = [
    "layer_idx", "module", "kind", "shape_before", "shape_after", "params_before", "params_after", "bytes_before",
    "bytes_after", "retention", "sparsity",
]  # fmt: skip
EMBEDDING, NORM = "embedding", "norm"
REMOVED = "-"  # stands for the shape of a matrix of which nothing remains
_KINDS = {"embed_tokens": EMBEDDING, "lm_head": EMBEDDING} | {
    module: kind
    for kind, modules in (
        (ATTENTION, ("q_proj", "k_proj", "v_proj", "o_proj")),
        (MLP, ("gate_proj", "up_proj", "down_proj")),
        (NORM, ("input_layernorm", "post_attention_layernorm", "q_norm", "k_norm", "norm")),
    )
    for module in modules
}
_INPUT_SIDE, _OUTPUT_SIDE = 1, 0


CHECK_SENTENCES = {
    "check.whole": "Blocks that the plan spares kept every size ({layers} {layers:layer|layers})",
    "check.ratio": "Query heads per KV head are as before ({layers} {layers:layer|layers})",
    "check.sides": "Sides that meet are equally long ({layers} {layers:layer|layers})",
    "check.planned": "Every layer has the sizes that the plan gives it ({layers} {layers:layer|layers})",
    "check.total": "Parameters after the cut: {found}; the plan says {expected}",
    "check.others": "Tensors beside those of the planned model: {found}",
    "check.at_fault": "{said}; at fault: {count:layer|layers} {layers}",
}


@dataclass(frozen=True)
class Tensor:
    """Shape and bytes of one tensor."""

    shape: tuple[int, ...]
    bytes: int

    @property
    def parameters(self) -> int:
        product = 1
        for size in self.shape:
            product *= size
        return product


@dataclass(frozen=True)
class Check:
    """One fact that must hold after a cut. `key` names its sentence, `values` fill it; `layers` are those at fault."""

    key: str
    passed: bool
    values: dict
    layers: tuple[int, ...] = ()

    def sentence(self, t: Callable[..., str] | None = None) -> str:
        """The fact in the words of `t` (default: English), and which layers are at fault."""
        t = t or _english
        said = t(self.key, **self.values)
        if not self.layers:
            return said
        return t("check.at_fault", said=said, count=len(self.layers), layers=", ".join(map(str, self.layers)))


def _english(key: str, **values) -> str:
    return FORMATTER.format(CHECK_SENTENCES[key], **values)


def matrix_table(plan: PruningPlan, bytes_per_parameter: float) -> pd.DataFrame:
    """Every matrix before and after the cut, from the plan alone.

    Columns: `layer_idx` (missing for embeddings, final norm and head; counted as in the model before the cut), `module`,
    `kind` (attention, mlp, embedding, norm), `shape_*` as text (`[1024, 4096]`; `-`: nothing remains), `params_*`,
    `bytes_*`, `retention` = after / before, `sparsity` = 1 - retention.
    """

    def sized(shape: tuple[int, ...]) -> Tensor:
        tensor = Tensor(shape, 0)
        return Tensor(shape, round(tensor.parameters * bytes_per_parameter))

    pairs = []
    for name, shape in plan.shape.tensor_shapes().items():
        cut = tensor_cut(name, plan)
        pairs.append((name, sized(shape), sized(_cut_shape(shape, cut)) if cut else None))
    return _table(pairs)


def actual_matrix_table(before: CheckpointHeader, after: CheckpointHeader, plan: PruningPlan) -> pd.DataFrame:
    """The same table from the safetensors headers of the two model folders; the plan only says which layer became which.

    Raises PruningError when the folder before the cut lacks a tensor of the plan's model.
    """
    pairs = []
    for name in plan.shape.tensor_shapes():
        if name not in before.tensors:
            raise PruningError("weights_missing", name=name, more="")
        pairs.append((name, _from_header(before, name), _from_header(after, _name_after(name, plan))))
    return _table(pairs)


def other_tensors(after: CheckpointHeader, plan: PruningPlan) -> tuple[str, ...]:
    """Tensors of the cut model that are in no row of its matrix table, such as those of a layer too many."""
    in_table = {_name_after(name, plan) for name in plan.shape.tensor_shapes()}
    return tuple(sorted(after.unexpected_names(in_table, plan.shape.tie_word_embeddings)))


def layer_table(plan: PruningPlan, matrices: pd.DataFrame | None = None) -> pd.DataFrame:
    """One row per layer of the model before the cut.

    `planned_sparsity` follows from the costs of the groups the plan removes, `sparsity` from the shapes in `matrices` (a
    matrix table; without one, from the shape the plan predicts). Both are shares of all parameters of the layer.
    """
    rows = []
    groups_before = plan.groups.block_sizes.reshape(-1, 2)
    for index, (layer, resized) in enumerate(zip(plan.shape.layers, plan.resized_layers, strict=True)):
        deleted = index not in plan.kept_layers
        params_after = 0 if deleted else resized.parameters
        planned = layer.parameters if deleted else int(plan.removed_parameters[index].sum())
        attention, mlp = (int(count) for count in groups_before[index])
        rows.append(
            {
                "layer_idx": index,
                "params_before": layer.parameters,
                "params_after": params_after,
                "sparsity": 1 - params_after / layer.parameters,
                "planned_sparsity": planned / layer.parameters,
                "attention_groups_before": attention,
                "attention_groups_removed": attention - resized.num_key_value_heads,
                "attention_groups_kept": resized.num_key_value_heads,
                "query_heads_before": layer.num_attention_heads,
                "query_heads_after": resized.num_attention_heads,
                "mlp_channels_before": mlp,
                "mlp_channels_removed": mlp - resized.intermediate_size,
                "mlp_channels_kept": resized.intermediate_size,
                "deleted": deleted,
            }
        )
    table = pd.DataFrame(rows)
    if matrices is not None:
        sums = matrices.groupby("layer_idx")[["params_before", "params_after"]].sum()
        table[["params_before", "params_after"]] = sums.to_numpy()
        table["sparsity"] = 1 - table["params_after"] / table["params_before"]
    return table


def checks(plan: PruningPlan, matrices: pd.DataFrame, others: Sequence[str] | None = None) -> list[Check]:
    """What must hold after a cut, checked on a matrix table, predicted or actual.

    Keys: `check.whole` (blocks without a cut kept every size), `check.ratio` (query heads : KV heads is unchanged),
    `check.sides` (sides that meet are equally long), `check.planned` (each layer has the planned sizes), `check.total`;
    where `others` (see `other_tensors`) are known, `check.others` (there are none).
    """
    sides = _sides_by_layer(matrices)
    results = [
        _layer_check("check.whole", sides, lambda i: _uncut_blocks_are_whole(plan, i, sides)),
        _layer_check("check.ratio", sides, lambda i: _ratio_is_kept(plan, i, sides)),
        _layer_check("check.sides", sides, lambda i: _sides_meet(plan, i, sides)),
        _layer_check("check.planned", sides, lambda i: _sizes_are_planned(plan, i, sides)),
    ]
    found, expected = int(matrices["params_after"].sum()), plan.shape_after.parameters
    results.append(Check("check.total", found == expected, {"found": f"{found:,}", "expected": f"{expected:,}"}))
    if others is not None:
        more = f" (and {len(others) - 1} more)" if len(others) > 1 else ""
        results.append(Check("check.others", not others, {"found": f"{others[0]}{more}" if others else "none"}))
    return results


# the table ------------------------------------------------------------------------------------------------------------


def _table(pairs: Iterable[tuple[str, Tensor, Tensor | None]]) -> pd.DataFrame:
    """Rows of (tensor name, before, after), a bias added to the row of its weight."""
    rows: dict[str, dict] = {}
    for name, before, after in pairs:
        owner, _, parameter = name.rpartition(".")
        row = rows.setdefault(owner, _empty_row(owner))
        if parameter == "weight":
            row["shape_before"] = str(list(before.shape))
            row["shape_after"] = str(list(after.shape)) if after else REMOVED
        row["params_before"] += before.parameters
        row["bytes_before"] += before.bytes
        row["params_after"] += after.parameters if after else 0
        row["bytes_after"] += after.bytes if after else 0
    table = pd.DataFrame(rows.values())
    table["layer_idx"] = table["layer_idx"].astype("Int64")
    table["retention"] = table["params_after"] / table["params_before"]
    table["sparsity"] = 1 - table["retention"]
    return table[COLUMNS]


def _empty_row(owner: str) -> dict:
    parts = owner.split(".")
    module = parts[-1]
    layer_idx = int(parts[2]) if parts[:2] == ["model", "layers"] else None
    counts = {"params_before": 0, "params_after": 0, "bytes_before": 0, "bytes_after": 0}
    return {"layer_idx": layer_idx, "module": module, "kind": _KINDS[module], "shape_after": REMOVED} | counts


def _cut_shape(shape: tuple[int, ...], cut: TensorCut) -> tuple[int, ...]:
    if cut.dim is None:
        return shape
    return (*shape[: cut.dim], len(cut.kept), *shape[cut.dim + 1 :])


def _name_after(name: str, plan: PruningPlan) -> str | None:
    """The name of a tensor in the cut model, a removed one's too if it were still there; None in a deleted layer."""
    if (cut := tensor_cut(name, plan)) is not None:
        return cut.name
    _, _, layer_idx, inner = name.split(".", 3)
    if int(layer_idx) not in plan.kept_layers:
        return None
    return f"model.layers.{plan.kept_layers.index(int(layer_idx))}.{inner}"


def _from_header(header: CheckpointHeader, name: str | None) -> Tensor | None:
    found = header.tensors.get(name)
    return Tensor(found.shape, found.end - found.start) if found else None


# the checks -----------------------------------------------------------------------------------------------------------

Sides = dict[int, dict[str, tuple[list[int], list[int]]]]


def _sides_by_layer(matrices: pd.DataFrame) -> Sides:
    """Layer -> module -> ([rows, columns] before, after); [0, 0] after for a matrix that is gone."""
    sides: Sides = {}
    for row in matrices[matrices["kind"].isin((ATTENTION, MLP))].itertuples():
        after = [0, 0] if row.shape_after == REMOVED else json.loads(row.shape_after)
        sides.setdefault(int(row.layer_idx), {})[row.module] = (json.loads(row.shape_before), after)
    return sides


def _layer_check(key: str, sides: Sides, holds: Callable[[int], bool]) -> Check:
    faulty = tuple(index for index in sides if not holds(index))
    return Check(key, not faulty, {"layers": len(sides)}, faulty)


def _uncut_blocks_are_whole(plan: PruningPlan, index: int, sides: Sides) -> bool:
    before, after = plan.shape.layers[index], plan.resized_layers[index]
    uncut = [kind for kind in (ATTENTION, MLP) if before.group_count(kind) == after.group_count(kind)]
    layer = sides[index]
    return all(layer[m][0] == layer[m][1] for m, kind in _KINDS.items() if kind in uncut and m in layer)


def _ratio_is_kept(plan: PruningPlan, index: int, sides: Sides) -> bool:
    layer = sides[index]
    if "q_proj" not in layer:
        return True
    query, key, value = (layer[m][1][_OUTPUT_SIDE] for m in ("q_proj", "k_proj", "v_proj"))
    return key == value and query == key * plan.shape.layers[index].num_key_value_groups


def _sides_meet(plan: PruningPlan, index: int, sides: Sides) -> bool:
    """Rows that make features are as many as the columns that read them, and the hidden side is whole or gone."""
    return all(
        _meets(sides[index], writers, reader, plan.shape.hidden_size)
        for writers, reader in ((("q_proj",), "o_proj"), (("gate_proj", "up_proj"), "down_proj"), (("k_proj", "v_proj"), None))
    )


def _meets(layer: dict, writers: tuple[str, ...], reader: str | None, hidden_size: int) -> bool:
    if writers[0] not in layer:
        return True
    rows = {layer[m][1][_OUTPUT_SIDE] for m in writers}
    hidden = {layer[m][1][_INPUT_SIDE] for m in writers}
    if reader:
        rows.add(layer[reader][1][_INPUT_SIDE])
        hidden.add(layer[reader][1][_OUTPUT_SIDE])
    return len(rows) == 1 and hidden == ({hidden_size} if rows != {0} else {0})


def _sizes_are_planned(plan: PruningPlan, index: int, sides: Sides) -> bool:
    planned, layer = plan.resized_layers[index], sides[index]
    keys = layer["k_proj"][1][_OUTPUT_SIDE] if "k_proj" in layer else 0
    channels = layer["gate_proj"][1][_OUTPUT_SIDE] if "gate_proj" in layer else 0
    return (keys, channels) == (planned.num_key_value_heads * planned.head_dim, planned.intermediate_size)
