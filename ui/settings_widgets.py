"""Widgets made from settings.py: label and help by key, default, range and unit from the setting itself."""

import streamlit as st

from pruning.settings import SETTINGS
from ui.translation import t


def number(name: str, **options) -> int:
    """A whole number."""
    setting = SETTINGS[name]
    limits = {
        "min_value": None if setting.minimum is None else int(setting.minimum),
        "max_value": None if setting.maximum is None else int(setting.maximum),
    }
    return st.number_input(
        _label(name), value=setting.default, step=1, help=_help(name), key=name, persist_state="session", **(limits | options)
    )


def choice(name: str, **options) -> str:
    """One of the setting's choices; values stay language-neutral."""
    setting = SETTINGS[name]
    return st.selectbox(_label(name), setting.choices, help=_help(name), key=name, persist_state="session", **options)


def text(name: str, **options) -> str:
    return st.text_input(
        _label(name), value=SETTINGS[name].default or "", help=_help(name), key=name, persist_state="session", **options
    )


def area(name: str, **options) -> str:
    """Text of several lines."""
    return st.text_area(
        _label(name), value=SETTINGS[name].default or "", help=_help(name), key=name, persist_state="session", **options
    )


def _label(name: str) -> str:
    setting = SETTINGS[name]
    label = t(f"setting.{name}")
    unit = t(f"unit.{setting.unit}") if setting.unit else ""
    return f"{label} ({unit})" if unit and unit != label.lower() else label


def _help(name: str) -> str:
    return t(f"help.{name}")
