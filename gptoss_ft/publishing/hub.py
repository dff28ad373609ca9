"""A finished model to the hub: where it goes, whether the token may write there, and the upload."""

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gptoss_ft.config import JobConfig
from gptoss_ft.errors import HubError, JobError
from gptoss_ft.hub_client import patiently
from gptoss_ft.hub_errors import explained
from gptoss_ft.publishing.card_values import Kind
from gptoss_ft.publishing.upload import staged
from gptoss_ft.redaction import redacted
from gptoss_ft.runtime import hub_user, push_demanded, push_wanted


@dataclass(frozen=True)
class AskedBy:
    """What asked for a push: the key to blame where it cannot be, how a cure ends that says how to go without, and the
    key and the name of what chooses the repository."""

    key: str = ""
    otherwise: str = ""
    repository_key: str = ""
    repository: str = "--repo"


COMMAND = AskedBy()


def _by_run() -> AskedBy:
    """PUSH_TO_HUB, or the config."""
    if push_demanded():
        return AskedBy("", ", or unset PUSH_TO_HUB", "hub.repo_id", "hub.repo_id")
    return AskedBy("hub.push", ", or hub.push: false", "hub.repo_id", "hub.repo_id")


def push_target(job: JobConfig) -> str | None:
    """The repository that the finished job goes to, made if need be; None when it is not pushed. `HubError` when the
    token may not write, so that it is known before hours of training."""
    repo_id = _repository(job)
    if repo_id is not None:
        claim_repository(repo_id, job.hub.private, _by_run())
    return repo_id


def check_push_rights(job: JobConfig) -> str | None:
    """The repository that the finished job would go to, None when it is not pushed; nothing is made there. `HubError`
    when the token is refused, or may only read."""
    repo_id = _repository(job)
    if repo_id is not None:
        _check_account(repo_id, _by_run())
    return repo_id


def _repository(job: JobConfig) -> str | None:
    if not push_wanted(job.hub.push) or lacks_token(job):
        return None
    return repository_of(job, "adapter", _by_run())


def lacks_token(job: JobConfig) -> bool:
    """Whether `hub.push` is on, but off for lack of a token. PUSH_TO_HUB=true makes that an error instead."""
    from huggingface_hub import get_token

    return push_wanted(job.hub.push) and not push_demanded() and get_token() is None


def repository_of(job: JobConfig, kind: Kind, asked: AskedBy = COMMAND) -> str:
    """`hub.repo_id`, else {HF_USER or the token's account}/{output_dir}-lora; for a merged model the same with -merged
    in place of -lora, so that it never lands among an adapter's files. `HubError` without a usable token."""
    _check_token(asked)
    return named_repository(job, kind) or _named(f"{_account(asked)['name']}/{_name(job)}", kind)


def named_repository(job: JobConfig, kind: Kind) -> str | None:
    """The same as far as it is known without asking the hub; None where it takes the name of the token's account."""
    adapter = job.hub.repo_id or (f"{user}/{_name(job)}" if (user := hub_user()) else None)
    return _named(adapter, kind) if adapter is not None else None


def _name(job: JobConfig) -> str:
    return f"{Path(job.training.output_dir).name}-lora"


def _named(adapter: str, kind: Kind) -> str:
    return adapter if kind == "adapter" else f"{adapter.removesuffix('-lora')}-merged"


def _check_token(asked: AskedBy) -> None:
    from huggingface_hub import get_token
    from huggingface_hub.constants import is_offline_mode

    token = get_token()
    if token is None:
        cure = f"Set HF_TOKEN{asked.otherwise or ', or log in with `hf auth login`'}."
        raise HubError("there is no token to push with", cure, asked.key)
    if not (token.isascii() and token.isprintable() and " " not in token):
        # The HTTP client's own error would quote it.
        raise HubError("what is set as the token holds characters that no token has", "Set HF_TOKEN anew.", asked.key)
    if is_offline_mode():
        raise HubError("HF_HUB_OFFLINE is set, so nothing can be pushed", f"Unset it{asked.otherwise}.", asked.key)


def _account(asked: AskedBy) -> dict[str, Any]:
    """What the hub says of the token's account; asked once, since the hub limits how often it may be."""
    from huggingface_hub import whoami

    with explained("the token's account", asked.key):
        account: dict[str, Any] = patiently(lambda: whoami(cache=True))
    return account


def _check_account(repo_id: str, asked: AskedBy) -> None:
    account = _account(asked)
    owner = repo_id.partition("/")[0]
    if owner not in (account["name"], *(organisation["name"] for organisation in account.get("orgs", []))):
        raise HubError(
            f"the token is of {account['name']}, who is no member of {owner}",
            f"Name a repository of your own with {asked.repository}, or set HF_TOKEN to a token of that account.",
            asked.repository_key,
        )
    if account.get("auth", {}).get("accessToken", {}).get("role") == "read":
        raise HubError(
            f"the token may only read, and the model is to go to {repo_id}",
            f"Set HF_TOKEN to a token that may write{asked.otherwise}.",
            asked.key,
        )


def claim_repository(repo_id: str, private: bool, asked: AskedBy = COMMAND) -> bool:
    """Make the repository unless it is there, and check that the token may write to it. Returns whether it is private,
    which of one that was there may differ from `private`."""
    from huggingface_hub import HfApi

    _check_token(asked)
    _check_account(repo_id, asked)
    with explained(repo_id, asked.repository_key):
        api = HfApi()
        api.create_repo(repo_id, private=private, exist_ok=True)
        # To a repository that is there, create_repo has no objection whatever the token may do.
        api.auth_check(repo_id, write=True)
        return bool(api.model_info(repo_id).private)


def push(folder: Path, repo_id: str, job: JobConfig, private: bool | None = None) -> str:
    """Upload the model in `folder`, trained by `job`, and return the commit's address.

    What lies there already is not sent again, so a second call goes on where the first was cut off: huggingface_hub
    1.33 does so in upload_folder, also of large folders (upload_large_folder is deprecated). Optimizer states and this
    machine's paths stay here. `HubError` when it fails, or when a file holds a token; `folder` stays whole, and the
    cure is the command that goes on, with the `private` that the user gave.
    """
    try:
        with staged(folder, job, repo_id) as files:
            return _upload(files, repo_id, folder.name)
    except JobError as error:
        command = ["bash", "train.sh", "push", "--model", str(folder), "--repo", repo_id]
        if private is not None:
            command.append("--private" if private else "--public")
        cure = f"The model is finished and kept. {error.cure}\nThen: {shlex.join(command)}"
        raise HubError(f"{error.message}, so {folder} was not pushed", cure, error.key) from None


def _upload(files: Path, repo_id: str, name: str) -> str:
    from huggingface_hub import HfApi

    try:
        with explained(repo_id, "hub.repo_id"), _refusals_told():
            commit = HfApi().upload_folder(repo_id=repo_id, folder_path=files, commit_message=f"Upload {name}")
    except (RuntimeError, PermissionError) as error:
        # hf_xet 1.6 raises these for whatever ends its transfer.
        raise HubError(
            f"the upload to {repo_id} broke off: {redacted(str(error))}", "Try again.", "hub.repo_id"
        ) from None
    return str(commit.commit_url)


@contextmanager
def _refusals_told() -> Iterator[None]:
    """Turn the client's errors for what the hub finds fault with into `HubError`; to Python they are a ValueError."""
    card, storage = "Invalid metadata in README.md.", "LFS batch API returned errors:"
    try:
        yield
    except ValueError as error:
        told = redacted(" ".join(str(error).split()))
        if told.startswith(card):
            raise HubError(
                f"the hub refuses the model card's header: {told.removeprefix(card).strip()}",
                "Set hub.license and hub.tags to what it takes, and write the card anew: --card.",
                "hub.license",
            ) from None
        if told.startswith(storage):
            raise HubError(
                f"the hub does not store the files: {told.removeprefix(storage).strip()}",
                "The account's page says what it may store.",
                "hub.repo_id",
            ) from None
        raise
