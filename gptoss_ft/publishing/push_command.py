"""`push`: an existing final_model, checkpoint or merged model to the hub, as it is."""

import re

from gptoss_ft.errors import DataError, HubError, SettingError
from gptoss_ft.publishing.hub import claim_repository, named_repository, push, repository_of
from gptoss_ft.publishing.model_card import CARD, kind_of, write_card
from gptoss_ft.publishing.run_facts import read_facts
from gptoss_ft.reporting import narration
from gptoss_ft.reporting.console import make_console
from gptoss_ft.runtime import prepare_environment, push_wanted
from gptoss_ft.subject import Subject


def push_model(subject: Subject, repo_id: str | None, private: bool | None, new_card: bool) -> None:
    """Upload the subject's folder to `repo_id`, or to the repository that its job names; with `new_card` its README.md
    is written anew first, also where it then cannot be pushed. Raises `JobError`."""
    if subject.folder is None:
        raise DataError(f"{subject.name} is a base model, which nothing was trained into", "Name what was trained.")
    if repo_id is not None and not re.fullmatch(r"[\w.-]+/[\w.-]+", repo_id):
        raise SettingError(f"--repo {repo_id}: wanted OWNER/NAME")
    if not push_wanted(True):
        raise HubError("PUSH_TO_HUB=false: nothing is pushed", "Unset PUSH_TO_HUB for this command.")
    prepare_environment()
    folder, job, console = subject.folder, subject.own_job(), make_console()
    kind = kind_of(folder)
    known = repo_id or named_repository(job, kind)
    if new_card:
        write_card(folder, read_facts(folder), job, kind, known)
        console.print(f"the card is {folder / CARD}", markup=False)
    repo_id = known or repository_of(job, kind)
    if new_card and known is None:
        # Now that the token's account is known.
        write_card(folder, read_facts(folder), job, kind, repo_id)
    wanted = job.hub.private if private is None else private
    is_private = claim_repository(repo_id, wanted)
    narration.show_push(console, folder, repo_id, is_private, wanted)
    narration.show_pushed(console, push(folder, repo_id, job, private))
