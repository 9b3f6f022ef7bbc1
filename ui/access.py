"""Which folders a person may name. On this machine alone: any. Bound to another address: the allowed roots only."""

import ipaddress
import os
from pathlib import Path

import streamlit as st

from pruning.model.model_source import DEMO_FOLDER

ROOTS_VARIABLE = "PRUNING_ALLOWED_ROOTS"


def allowed_roots(address: str | None = None) -> tuple[Path, ...] | None:
    """None when the server is bound to the loopback address, else the folders under which typed paths must lie.

    The environment variable PRUNING_ALLOWED_ROOTS names them, joined by ':' (';' on Windows); default: the working folder.
    """
    address = address if address is not None else st.get_option("server.address")
    if _is_loopback(address):
        return None
    named = os.environ.get(ROOTS_VARIABLE)
    roots = [Path(root) for root in named.split(os.pathsep)] if named else [Path.cwd()]
    return (*roots, DEMO_FOLDER)


def _is_loopback(address: str | None) -> bool:
    if not address:
        return False
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return address == "localhost"
