"""A file that a person gives -> plan: rows that go, a table to plan from, or a plan. Imports no torch.

--groups  exactly these rows go        --table  its scores rank, missing rows stay        --plan  exactly this plan
"""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from .errors import PruningError
from .experiment import read_layer_importance, read_rows, read_sidecar
from .files import read_json
from .planning.allocation import Floors
from .planning.checkpoint_header import CheckpointHeader
from .planning.group_table import FORMAT_VERSION as TABLE_VERSION
from .planning.group_table import GroupTable, row_positions, scores_agree
from .planning.groups import GroupIndex
from .planning.layer_importance import LayerImportance
from .planning.plan import PruningPlan
from .planning.planner import floors_from_settings, plan_from_settings
from .planning.shape import GROUP_TYPES, ModelShape
from .settings import PLAN_SETTINGS, Settings, canonical
from .words import counted

SOURCES = ("groups", "table", "plan")
_DECIDED_BY_FILE = set(PLAN_SETTINGS) - {"min_kv_groups", "min_mlp_channels", "remove_empty_layers", "pruning_ratio"}


@dataclass(frozen=True)
class Chosen:
    """A plan, the table it was made from where there is one, and what the person should know about the file."""

    plan: PruningPlan
    table: GroupTable | None
    warnings: tuple[PruningError, ...]


def plan_from_file(
    shape: ModelShape, fingerprint: str | None, settings: Settings, layers: LayerImportance | None = None
) -> Chosen:
    """The plan that the file named in `settings` gives (one of groups, table, plan); raises PruningError naming the fault."""
    given = [name for name in SOURCES if getattr(settings, name)]
    if len(given) != 1:
        raise PruningError("apply_one_source")
    path = Path(getattr(settings, given[0])).expanduser()
    if given[0] == "plan":
        return chosen_plan(read_json(path, None), shape, fingerprint, settings, path)
    frame, source = read_table_file(path)
    if given[0] == "groups":
        return chosen_groups(frame, source, shape, fingerprint, settings, path)
    table, warnings = checked_table(frame, source, shape, fingerprint, path)
    return Chosen(plan_from_settings(table, settings, layers).plan, table, warnings)


def read_table_file(path: Path) -> tuple[pd.DataFrame, dict]:
    """Rows and source of a table: a .csv with its sidecar, or the one .json of `--save_table_path`."""
    if path.suffix != ".json":
        return read_rows(path), read_sidecar(path)
    content = read_json(path, TABLE_VERSION)
    rows = content.pop("groups", None)
    if not isinstance(rows, list):
        raise PruningError("file_broken", path=path, reason="it has no list `groups`")
    content.pop("format_version")
    return pd.DataFrame(rows), content


def layers_from_file(header: CheckpointHeader, settings: Settings) -> LayerImportance | None:
    """The importance of layers that `layer_importance_config` names; None when it names none."""
    path = settings.layer_importance_config
    if not path:
        return None
    return read_layer_importance(Path(path).expanduser(), header.shape.num_layers, header.fingerprint)


def refuse_unused(given: dict) -> None:
    """Raises PruningError for a setting of plans beside a file that is the plan already (rows, a plan.json).

    A ratio may be given, as with a table; the file says what goes.
    """
    file = next((name for name in ("groups", "plan") if given.get(name)), None)
    for name in given:
        if file and canonical(name) in _DECIDED_BY_FILE:
            raise PruningError("settings_exclusive", first=file, second=name)


def chosen_plan(content: dict, shape: ModelShape, fingerprint: str | None, settings: Settings, path) -> Chosen:
    """The plan that a `plan.json` holds, its floors checked."""
    plan = PruningPlan.from_json(content, shape, fingerprint, path)
    floors = floors_from_settings(settings)
    check_floors(plan, replace(floors, remove_empty_layers=floors.remove_empty_layers or plan.remove_empty_layers), path)
    for_model = plan if plan.fingerprint else replace(plan, fingerprint=fingerprint)
    return Chosen(for_model, None, _warn_if_unknown(plan.fingerprint, path))


def chosen_groups(
    frame: pd.DataFrame, source: dict, shape: ModelShape, fingerprint: str | None, settings: Settings, path
) -> Chosen:
    """The plan that cuts exactly these rows."""
    _refuse_other_model(source, fingerprint, path)
    plan = plan_from_rows(frame, shape, floors_from_settings(settings), fingerprint, path)
    return Chosen(plan, None, _warn_if_unknown(source.get("fingerprint"), path))


def checked_table(
    frame: pd.DataFrame, source: dict, shape: ModelShape, fingerprint: str | None, path
) -> tuple[GroupTable, tuple[PruningError, ...]]:
    """The table that these rows make, and what to know about it."""
    _refuse_other_model(source, fingerprint, path)
    table = GroupTable.from_frame(frame, shape, {"fingerprint": fingerprint} | source | {"from_file": True}, path)
    warnings = _warn_if_unknown(source.get("fingerprint"), path)
    edited = int((~scores_agree(frame)).sum())
    return table, (*warnings, PruningError("scores_edited", path=path, rows=edited)) if edited else warnings


def _refuse_other_model(source: dict, fingerprint: str | None, path) -> None:
    found = source.get("fingerprint")
    if found and fingerprint and found != fingerprint:
        raise PruningError("plan_other_model", path=path, found=str(found)[:12], expected=fingerprint[:12])


def _warn_if_unknown(fingerprint: str | None, path) -> tuple[PruningError, ...]:
    return () if fingerprint else (PruningError("origin_unknown", path=path),)


def plan_from_rows(
    frame: pd.DataFrame, shape: ModelShape, floors: Floors, fingerprint: str | None = None, path="the table"
) -> PruningPlan:
    """The plan that cuts the groups of these rows; raises PruningError naming the row at fault (the header is row 1).

    A floor is broken by the first row, from the top, that leaves its block fewer groups than must stay.
    """
    positions = row_positions(frame, shape, path)
    kept = np.ones(GroupIndex(shape).size, dtype=bool)
    kept[positions] = False
    _refuse_broken_floor(positions, shape, floors, path)
    return PruningPlan(shape, kept, floors.remove_empty_layers, fingerprint)


def check_floors(plan: PruningPlan, floors: Floors, path="plan.json") -> None:
    """Raises PruningError naming the first layer of which a plan keeps less than must stay."""
    floor = floors.per_block(plan.shape)
    for layer, kind in zip(*np.nonzero(plan.kept_counts < floor), strict=True):
        kept, least = plan.kept_counts[layer, kind], floor[layer, kind]
        reason = f"{counted(kept, 'group')} of kind {GROUP_TYPES[kind]} would stay, at least {least} must"
        raise PruningError("plan_groups", path=path, layer=int(layer), reason=reason)


def _refuse_broken_floor(positions: np.ndarray, shape: ModelShape, floors: Floors, path) -> None:
    groups = GroupIndex(shape)
    may_go = groups.block_sizes - floors.per_block(shape).ravel()
    blocks = groups.block[positions]
    for block in np.flatnonzero(np.bincount(blocks, minlength=len(may_go)) > may_go):
        row = int(np.flatnonzero(blocks == block)[may_go[block]])
        layer, kind = divmod(int(block), 2)
        least = counted(int(groups.block_sizes[block] - may_go[block]), "group")
        reason = f"cut too, layer {layer} keeps fewer than {least} of kind {GROUP_TYPES[kind]}, which must stay"
        raise PruningError("table_row", path=path, row=row + 2, reason=reason)
