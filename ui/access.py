"""What a visitor may do. On this machine alone: anything. Bound to another address: name folders under the allowed roots only,
run no code that a model brings, and not use this server's own Hugging Face token.
"""

import ipaddress
import os
from pathlib import Path

import streamlit as st

from pruning.model.corpus_names import FILE, kind_of_corpus, text_file
from pruning.model.model_source import DEMO_FOLDER, check_inside

ROOTS_VARIABLE = "PRUNING_ALLOWED_ROOTS"


def is_beyond_loopback(address: str | None = None) -> bool:
    """Whether an address, by default the one that the server is bound to, can be reached from other machines.

    A name counts as one that can, except `localhost`; so does no address, which means all there are.
    """
    return not _is_loopback(address if address is not None else st.get_option("server.address"))


def leave_own_token_out() -> None:
    """Has the hub's library, here and in the workers, send none but the tokens that visitors type.

    Left to itself it takes HF_TOKEN, or what `hf auth login` stored, where it is given none.
    """
    os.environ["HF_HUB_DISABLE_IMPLICIT_TOKEN"] = "1"  # read when the library is imported, which no page does at its start


def allowed_roots(address: str | None = None) -> tuple[Path, ...] | None:
    """None when the server is bound to the loopback address, else the folders under which typed paths must be.

    The environment variable PRUNING_ALLOWED_ROOTS names them, joined by ':' (';' on Windows); default: the working folder.
    """
    if not is_beyond_loopback(address):
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
