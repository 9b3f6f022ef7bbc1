"""Which folders a person may name. On this machine alone: any. Bound to another address: the allowed roots only."""

import ipaddress
import os
from pathlib import Path

import streamlit as st

from pruning.model.corpus_names import FILE, kind_of_corpus, text_file
from pruning.model.model_source import DEMO_FOLDER, check_inside

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


def check_corpus(name: str) -> None:
    """Raises PruningError for what names no corpus, and for a text file outside the allowed roots."""
    if kind_of_corpus(name) == FILE:
        check_inside(text_file(name), allowed_roots())


def _is_loopback(address: str | None) -> bool:
    if not address:
        return False
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return address == "localhost"
