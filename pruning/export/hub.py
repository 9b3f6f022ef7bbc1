"""Puts a model folder and single files into a repository of the Hugging Face hub: private unless said otherwise.

    create repository -> upload large files -> one commit with everything        a commit is whole or not there

The token is kept in memory only: it is in no file, no log and no message.
"""

import re
from pathlib import Path

from ..errors import PruningError
from ..model.model_source import usable_token

_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.\-]*/[A-Za-z0-9][\w.\-]*", re.ASCII)


def check_repository(repository: str) -> None:
    """Raises PruningError for what cannot name a repository: owner/name, and nothing else."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repository)
    except HFValidationError:
        raise PruningError("hub_name", name=repository) from None
    if not _REPOSITORY.fullmatch(repository):
        raise PruningError("hub_name", name=repository)


def push(
    folder: Path,
    repository: str,
    token: str | None,
    card: str,
    files: tuple[Path, ...] = (),
    private: bool = True,
    endpoint: str | None = None,
) -> str:
    """Uploads `folder`, with `card` as its README.md, and `files` beside it, in one commit; returns the address.

    An existing repository is added to, and stays as visible as it was; one that was made for this goes again when the upload
    fails. Raises PruningError for a missing or refused token, an impossible name, or a hub that does not answer.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    check_repository(repository)
    token = usable_token(token)
    if token is None:
        raise PruningError("hub_token_missing")
    hub = HfApi(endpoint=endpoint, token=token)
    operations = [CommitOperationAdd("README.md", card.encode())]
    operations += [CommitOperationAdd(file.name, file) for file in sorted(folder.iterdir()) if file.name != "README.md"]
    operations += [CommitOperationAdd(file.name, file) for file in files]
    is_new = _answered(repository, lambda: _create(hub, repository, private))
    try:
        _answered(repository, lambda: hub.create_commit(repository, operations, commit_message="Add the pruned model"))
    except BaseException:
        if is_new:
            _answered(repository, lambda: hub.delete_repo(repository, missing_ok=True))
        raise
    return f"{hub.endpoint}/{repository}"


def _create(hub, repository: str, private: bool) -> bool:
    """Whether the repository was made now; False when it was there."""
    from huggingface_hub.errors import HfHubHTTPError

    try:
        hub.create_repo(repository, private=private)
    except HfHubHTTPError as error:
        if error.response.status_code == 409:
            return False
        raise
    return True


def _answered(repository: str, call):
    """What the hub answers; raises PruningError with a sentence of our own: the hub's may hold what was sent."""
    from huggingface_hub import errors

    try:
        return call()
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        if status in (401, 403):
            raise PruningError("hub_token_wrong", repository=repository, status=status) from None
        raise PruningError("hub_refused", repository=repository, status=status) from None
    except (errors.HTTPError, OSError) as error:
        raise PruningError("hub_no_answer", reason=type(error).__name__) from None
