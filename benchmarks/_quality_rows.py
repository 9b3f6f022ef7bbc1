"""What the quality benchmark keeps: a row for each plan, the perplexity of each distinct plan, and on which basis.

    quality.csv   rows, one per strategy, protection, ratio and method        quality.json   basis, perplexity by plan digest

Both are written again after each row, so that a benchmark can be stopped and continued. Knows nothing about models.
"""

import csv
import json
import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TextIO

CSV_FILE, BASIS_FILE = "quality.csv", "quality.json"
_MARKS = {"yes": " ", "unclear": "~", "no": "!", "": " "}
RECOVERED = ("reconstruct", "iterative", "iterative_reconstruct", "lora_cut", "lora", "lora_distill")
_OFF_TARGET = 0.002  # from here on a table says what share really went


@dataclass(frozen=True)
class Row:
    """One plan and what it does. Figures are None where there is no such plan; `refused` says why."""

    strategy: str
    protection: str
    ratio: float
    method: str
    actual_ratio: float | None = None
    plan: str | None = None
    perplexity: float | None = None
    random_mean: float | None = None
    random_std: float | None = None
    random_min: float | None = None
    random_max: float | None = None
    refused: str = ""
    # after a recovery (_recovery_ways.py); None where it was not measured. The names are in RECOVERED.
    reconstruct: float | None = None
    iterative: float | None = None
    iterative_reconstruct: float | None = None
    lora_cut: float | None = None
    lora: float | None = None
    lora_distill: float | None = None

    @property
    def recovered(self) -> dict[str, float]:
        """What was measured after a recovery, by its column."""
        return {name: value for name in RECOVERED if (value := getattr(self, name)) is not None}

    @property
    def key(self) -> tuple[str, str, float, str]:
        return self.strategy, self.protection, self.ratio, self.method

    @property
    def beats_random(self) -> str:
        """`yes`: better than every seed, `unclear`: than their mean only, `no`; empty where one of them is not there."""
        if self.perplexity is None or self.random_mean is None:
            return ""
        return "yes" if self.perplexity < self.random_min else "unclear" if self.perplexity < self.random_mean else "no"

    @property
    def cell(self) -> str:
        """Perplexity of the plan, and of the same sizes at random: `! 41.27 (38.1 +- 0.4)`."""
        if self.perplexity is None:
            return "no such plan"
        if self.random_mean is None:
            return f"  {self.perplexity:.2f}"
        figures = f"{_MARKS[self.beats_random]} {self.perplexity:.2f} ({self.random_mean:.1f} +- {self.random_std:.1f})"
        return figures + (f" at {self.actual_ratio:.1%}" if abs(self.actual_ratio - self.ratio) > _OFF_TARGET else "")

    @classmethod
    def from_csv(cls, entry: dict[str, str]) -> "Row":
        text = {"strategy", "protection", "method", "plan", "refused"}
        given = {f.name: entry.get(f.name, "") for f in fields(cls)}
        values = {name: value if name in text else _number(value) for name, value in given.items()}
        return cls(**values | {"plan": entry["plan"] or None})


def _number(text: str) -> float | None:
    return float(text) if text else None


class Results:
    """Rows by their key, and perplexities by plan digest. `basis["compared"]` is what all figures must agree in."""

    def __init__(self, folder: Path, basis: dict):
        self.folder, self.basis = folder, basis
        self.recovery_basis: dict = {}
        self.rows: dict[tuple, Row] = {}
        self._earlier: dict[tuple, Row] = {}  # that were recovered, and are not measured again yet
        self.perplexities: dict[str, float] = {}

    @classmethod
    def resumed(cls, folder: Path, basis: dict) -> "Results":
        """What the folder holds; exits when that was measured on another basis."""
        results = cls(folder, basis)
        if not (folder / BASIS_FILE).is_file():
            return results
        known = json.loads((folder / BASIS_FILE).read_text(encoding="utf-8"))
        if other := _differing(known, basis):
            raise SystemExit(f"{folder / BASIS_FILE} has another {other}: give another --output, or no --resume.")
        results.recovery_basis = known.get("recovery", {})
        results.perplexities = {digest: math.inf if value is None else value for digest, value in known["perplexities"].items()}
        results.rows = _read_rows(folder / CSV_FILE)
        return results

    @classmethod
    def anew(cls, folder: Path, basis: dict) -> "Results":
        """Nothing yet, but for what recoveries gave: that takes hours, and stays where it was measured on this basis.

        Prints why where it does not.
        """
        results = cls(folder, basis)
        if not (folder / BASIS_FILE).is_file() or not (folder / CSV_FILE).is_file():
            return results
        known = json.loads((folder / BASIS_FILE).read_text(encoding="utf-8"))
        recovered = {key: row for key, row in _read_rows(folder / CSV_FILE).items() if row.recovered}
        if recovered and (other := _differing(known, basis)):
            print(f"columns of {len(recovered)} recovered rows are dropped: they were measured on another {other}", flush=True)
        elif recovered:
            results.recovery_basis, results._earlier = known.get("recovery", {}), recovered
        return results

    def add(self, row: Row) -> None:
        """Keeps the row, with what a recovery of the same plan gave before, and writes both files."""
        earlier = self._earlier.pop(row.key, None)
        if earlier is not None and earlier.plan == row.plan:
            row = replace(row, **earlier.recovered | row.recovered)
        elif earlier is not None:
            print(f"  recovery columns of this row are dropped: they are of another plan, {earlier.plan}", flush=True)
        self.rows[row.key] = row
        self.folder.mkdir(parents=True, exist_ok=True)
        finite = {digest: value if math.isfinite(value) else None for digest, value in self.perplexities.items()}
        with _replaced(self.folder / BASIS_FILE) as file:
            json.dump({"basis": self.basis, "recovery": self.recovery_basis, "perplexities": finite}, file, indent=1)
        with _replaced(self.folder / CSV_FILE) as file:
            columns = [field.name for field in fields(Row)] + ["beats_random"]
            writer = csv.DictWriter(file, columns, lineterminator="\n")
            writer.writeheader()
            writer.writerows(asdict(row) | {"beats_random": row.beats_random} for row in self._all_rows)

    @property
    def _all_rows(self) -> list[Row]:
        return [*self.rows.values(), *self._earlier.values()]

    def keep_notes(self) -> None:
        """What was noted when the rows were measured stays: this time none of them is."""
        if (self.folder / BASIS_FILE).is_file():
            self.basis["noted"] = json.loads((self.folder / BASIS_FILE).read_text(encoding="utf-8"))["basis"]["noted"]

    def print_recoveries(self, ways: Iterable[str]) -> None:
        """The rows that were recovered, ways across."""
        print("\nperplexity after recovery")
        print(f"  {'':34s}{'cut':>10s}" + "".join(f"{way:>{len(way) + 3}s}" for way in ways))
        for row in self.rows.values():
            figures = {way: getattr(row, way) for way in ways}
            if any(value is not None for value in figures.values()):
                name = f"{row.strategy}, {row.protection}, {row.ratio:.0%}, {row.method}"
                cells = (f"{'' if v is None else f'{v:.3f}':>{len(way) + 3}s}" for way, v in figures.items())
                print(f"  {name:34s}{row.perplexity:10.3f}" + "".join(cells))

    def print(self) -> None:
        """The basis, then a table for each strategy and protection: methods down, ratios across."""
        print("\nbasis:")
        for name, value in (self.basis["compared"] | self.basis["noted"]).items():
            print(f"  {name:24s}{value}")
        print("\nperplexity (same sizes at random: mean +- standard deviation over the seeds)")
        print("  ! not better than the mean at random    ~ better than the mean, not than every seed")
        for strategy, protection in dict.fromkeys((row.strategy, row.protection) for row in self.rows.values()):
            rows = [row for row in self.rows.values() if (row.strategy, row.protection) == (strategy, protection)]
            ratios = sorted({row.ratio for row in rows})
            print(f"\n{strategy}, protection {protection}")
            print(f"  {'':12s}" + "".join(f"{f'  {ratio:.0%}':38s}" for ratio in ratios).rstrip())
            for method in dict.fromkeys(row.method for row in rows):
                cells = {row.ratio: row.cell for row in rows if row.method == method}
                print(f"  {method:12s}" + "".join(f"{cells.get(ratio, ''):38s}" for ratio in ratios).rstrip())


def _differing(known: dict, basis: dict) -> str:
    """Names of what earlier figures rest on and these do not, joined by commas."""
    before = known["basis"]["compared"]
    return ", ".join(name for name, value in basis["compared"].items() if before.get(name) != value)


def _read_rows(path: Path) -> dict[tuple, Row]:
    with path.open(newline="", encoding="utf-8") as file:
        return {row.key: row for row in map(Row.from_csv, csv.DictReader(file))}


@contextmanager
def _replaced(path: Path) -> Iterator[TextIO]:
    """A file that replaces `path` once it is complete."""
    part = path.with_name(f"{path.name}.tmp")
    with part.open("w", newline="", encoding="utf-8") as file:
        yield file
    part.replace(path)
