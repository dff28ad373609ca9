"""The finished adapter to the hub."""

from pathlib import Path

from huggingface_hub import HfApi, get_token

from gptoss_ft.config import JobConfig
from gptoss_ft.errors import HubError
from gptoss_ft.hub_errors import explained
from gptoss_ft.runtime import hub_user, push_allowed


def push_target(job: JobConfig) -> str | None:
    """The repository that the finished job goes to, None when it is not pushed. `HubError` without a token, so
    that it is known before hours of training."""
    if not job.hub.push or not push_allowed():
        return None
    if get_token() is None:
        raise HubError("there is no token to push with", "Set HF_TOKEN, or hub.push: false.", "hub.push")
    if job.hub.repo_id is not None:
        return job.hub.repo_id
    user = hub_user()
    if user is None:
        with explained("the token's account", "hub.push"):
            user = str(HfApi().whoami()["name"])
    return f"{user}/{Path(job.training.output_dir).name}-lora"


def push(folder: Path, repo_id: str, private: bool) -> str:
    """Upload `folder` and return the repository's address."""
    api = HfApi()
    with explained(repo_id, "hub.repo_id"):
        address = api.create_repo(repo_id, private=private, exist_ok=True)
        api.upload_folder(repo_id=repo_id, folder_path=folder, commit_message="Upload the fine-tuned adapter")
    return str(address)
