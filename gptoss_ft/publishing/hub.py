"""The finished adapter to the hub."""

from pathlib import Path

from gptoss_ft.config import JobConfig
from gptoss_ft.errors import HubError, JobError
from gptoss_ft.hub_errors import explained
from gptoss_ft.runtime import hub_user, push_wanted


def push_target(job: JobConfig) -> str | None:
    """The repository that the finished job goes to, made if need be; None when it is not pushed. `HubError` when the
    token lacks or may not write, so that it is known before hours of training."""
    from huggingface_hub import HfApi

    repo_id = _repository(job)
    if repo_id is not None:
        with explained(repo_id, "hub.repo_id"):
            HfApi().create_repo(repo_id, private=job.hub.private, exist_ok=True)
    return repo_id


def check_push_rights(job: JobConfig) -> str | None:
    """The repository that the finished job would go to, None when it is not pushed; nothing is made there. `HubError`
    when the token lacks, is refused, or may only read."""
    from huggingface_hub import HfApi

    repo_id = _repository(job)
    if repo_id is not None:
        with explained("the token's account", "hub.push"):
            account = HfApi().whoami()
        owner = repo_id.partition("/")[0]
        if owner not in (account["name"], *(organisation["name"] for organisation in account.get("orgs", []))):
            raise HubError(
                f"the token is of {account['name']}, who is no member of {owner}",
                "Set hub.repo_id to a repository of your own, or HF_TOKEN to a token of that account.",
                "hub.repo_id",
            )
        if account.get("auth", {}).get("accessToken", {}).get("role") == "read":
            raise HubError(
                f"the token may only read, and the adapter is to go to {repo_id}",
                "Set HF_TOKEN to a token that may write, or hub.push: false.",
                "hub.push",
            )
    return repo_id


def _repository(job: JobConfig) -> str | None:
    from huggingface_hub import HfApi, get_token

    if not push_wanted(job.hub.push):
        return None
    if get_token() is None:
        raise HubError("there is no token to push with", "Set HF_TOKEN, or hub.push: false.", "hub.push")
    if job.hub.repo_id is not None:
        return job.hub.repo_id
    user = hub_user()
    with explained("the token's account", "hub.push"):
        return f"{user or HfApi().whoami()['name']}/{Path(job.training.output_dir).name}-lora"


def push(folder: Path, repo_id: str) -> str:
    """Upload `folder` and return the commit's address. The folder stays whole when the upload fails."""
    from huggingface_hub import HfApi

    try:
        with explained(repo_id, "hub.repo_id"):
            commit = HfApi().upload_folder(
                repo_id=repo_id, folder_path=folder, commit_message="Upload the fine-tuned adapter"
            )
    except JobError as error:
        cure = f"The model is finished and kept; upload it with: hf upload {repo_id} {folder}"
        raise HubError(f"{error.message}, so {folder} was not pushed", cure, error.key) from None
    return str(commit.commit_url)
