"""Tables and JSON on the terminal."""

import json
import math

import pandas as pd


def text_table(frame: pd.DataFrame, formats: dict | None = None) -> str:
    """A table with aligned columns, numbers right; `formats` gives columns a function from value to text."""
    formats = formats or {}
    columns = [[str(name), *(_text(value, formats.get(name)) for value in frame[name])] for name in frame.columns]
    numeric = [pd.api.types.is_numeric_dtype(frame[name]) or name in formats for name in frame.columns]
    widths = [max(map(len, column)) for column in columns]
    rows = (zip(row, widths, numeric, strict=True) for row in zip(*columns, strict=True))
    padded = ((text.rjust(width) if right else text.ljust(width) for text, width, right in row) for row in rows)
    return "\n".join("  ".join(row).rstrip() for row in padded)


def as_json(content) -> str:
    """JSON of dictionaries, lists and tables; a number that is missing or infinite is null."""
    return json.dumps(_plain(content), indent=1, ensure_ascii=False, allow_nan=False)


def percent(share: float) -> str:
    return f"{share:.2%}"


def count(number: float) -> str:
    return f"{int(number):,}"


def _text(value, form) -> str:
    if value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value)):
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return form(value) if form else f"{value:,}" if isinstance(value, int) else str(value)


def _plain(content):
    if isinstance(content, pd.DataFrame):
        return [_plain(row) for row in content.to_dict("records")]
    if isinstance(content, dict):
        return {str(name): _plain(value) for name, value in content.items()}
    if isinstance(content, list | tuple):
        return [_plain(value) for value in content]
    if content is None or content is pd.NA:
        return None
    if hasattr(content, "item"):
        return _plain(content.item())
    return None if isinstance(content, float) and not math.isfinite(content) else content
