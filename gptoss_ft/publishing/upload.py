"""What of a model's folder is uploaded: its files without the trainer's, a card, and no secret."""

import fnmatch
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gptoss_ft.config import JobConfig, find_job_file, write_job_file
from gptoss_ft.errors import HubError
from gptoss_ft.hub_errors import TOKEN
from gptoss_ft.publishing.model_card import CARD, kind_of, render_card
from gptoss_ft.publishing.public_job import public_job
from gptoss_ft.publishing.run_facts import read_facts

# The trainer's states, and what programs leave beside a model.
LEFT_OUT = (
    "checkpoint-*", ".*", "*.partial", "*.log", "*.lock", "optimizer.*", "scheduler.*", "scaler.*", "rng_state*",
    "training_args.bin", "trainer_state.json",
)  # fmt: skip
READ_AT_ONCE = 2**24


@contextmanager
def staged(folder: Path, job: JobConfig, repo_id: str) -> Iterator[Path]:
    """A temporary folder of what is uploaded of `folder`, as links; its job.yaml is without this machine's paths, and a
    card is made where there is none. `HubError` when a file holds an access token."""
    with tempfile.TemporaryDirectory(prefix="gptoss_ft_push_") as name:
        files = Path(name)
        for path in uploaded(folder):
            link = files / path.relative_to(folder)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(path.absolute())
        if (own := find_job_file(folder)) is not None:
            (files / own.name).unlink(missing_ok=True)
            write_job_file(public_job(job), files)
        if not (files / CARD).exists():
            card = render_card(folder, read_facts(folder), job, kind_of(folder), repo_id)
            (files / CARD).write_text(card, encoding="utf-8")
        _refuse_secrets(files)
        yield files


def uploaded(folder: Path) -> list[Path]:
    """The files of `folder` that belong to the model, sorted."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.is_file()
        and not any(fnmatch.fnmatch(part, left) for part in path.relative_to(folder).parts for left in LEFT_OUT)
    )


def _refuse_secrets(files: Path) -> None:
    from huggingface_hub import get_token

    token = (get_token() or "").encode()
    for path in sorted(files.rglob("*")):
        # Weights are numbers; all else is text that somebody may have written a token into.
        if path.is_file() and path.suffix not in (".safetensors", ".bin") and _holds_secret(path, token):
            name = path.relative_to(files)
            raise HubError(f"{name} holds what looks like an access token", f"Take it out of {name}.", "hub.push")


def _holds_secret(path: Path, token: bytes) -> bool:
    with path.open("rb") as stream:
        rest = b""
        while block := stream.read(READ_AT_ONCE):
            text = rest + block
            if (token and token in text) or TOKEN.search(text.decode("ascii", errors="replace")):
                return True
            # A token may lie across two blocks.
            rest = text[-256:]
    return False
