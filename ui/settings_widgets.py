"""Widgets made from settings.py: label and help by key, default, range and unit from the setting itself."""

import streamlit as st

from pruning.settings import SETTINGS
from ui.translation import t

_STEP = 0.05  # of a slider over a share


def number(name: str, **options) -> int | float | None:
    """A number; empty where the setting may be left out."""
    setting = SETTINGS[name]
    limits = {
        "min_value": None if setting.minimum is None else setting.kind(setting.minimum),
        "max_value": None if setting.maximum is None else setting.kind(setting.maximum),
    }
    step = {"step": 1} if setting.kind is int else {}
    return st.number_input(
        _label(name), value=setting.default, help=_help(name), key=name, persist_state="session", **(limits | step | options)
    )


def switch(name: str, **options) -> bool:
    """On or off."""
    return st.toggle(_label(name), value=SETTINGS[name].default, help=_help(name), key=name, persist_state="session", **options)


def slider(name: str, **options) -> float:
    """A share, from 0 to 1 where the setting has no narrower bounds."""
    setting = SETTINGS[name]
    return st.slider(
        _label(name),
        float(setting.minimum or 0),
        float(setting.maximum or 1),
        setting.default,
        _STEP,
        format="percent",
        help=_help(name),
        key=name,
        persist_state="session",
        **options,
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
    return f"{label} ({unit})" if unit and unit not in label.lower() else label


def _help(name: str) -> str:
    return t(f"help.{name}")
