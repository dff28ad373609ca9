"""What of a model's folder is uploaded: its files without the trainer's, a card, and no secret."""

import fnmatch
import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gptoss_ft.config import JobConfig, find_job_file, write_job_file
from gptoss_ft.errors import HubError
from gptoss_ft.publishing.model_card import CARD, kind_of, render_card
from gptoss_ft.publishing.public_job import is_path, public_job, shown_name
from gptoss_ft.publishing.run_facts import read_facts
from gptoss_ft.redaction import holds_token
from gptoss_ft.reporting.files import write_json

# The trainer's states, and what programs leave beside a model.
LEFT_OUT = (
    "checkpoint-*", ".*", "*.partial", "*.log", "*.lock", "optimizer.*", "scheduler.*", "scaler.*", "rng_state*",
    "training_args.bin", "trainer_state.json", "checkpoint.json",
)  # fmt: skip
ADAPTER_CONFIG = "adapter_config.json"
READ_AT_ONCE = 2**24


@contextmanager
def staged(folder: Path, job: JobConfig, repo_id: str) -> Iterator[Path]:
    """A temporary folder of what is uploaded of `folder`, as links; its job.yaml and adapter_config.json are without
    this machine's paths, and a card is made where there is none. `HubError` when a file holds an access token."""
    with tempfile.TemporaryDirectory(prefix="gptoss_ft_push_") as name:
        files = Path(name)
        for path in uploaded(folder):
            link = files / path.relative_to(folder)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(path.absolute())
        if (own := find_job_file(folder)) is not None:
            (files / own.name).unlink(missing_ok=True)
            write_job_file(public_job(job), files)
        _hide_base_path(files, job)
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


def _hide_base_path(files: Path, job: JobConfig) -> None:
    """Where the adapter names a folder as its base model, put the job's name of it there, as job.yaml shows it."""
    path = files / ADAPTER_CONFIG
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return
    base = content.get("base_model_name_or_path") if isinstance(content, dict) else None
    if isinstance(base, str) and is_path(base):
        path.unlink()  # a link to the user's own
        write_json(path, {**content, "base_model_name_or_path": shown_name(job.model.name)})


def _refuse_secrets(files: Path) -> None:
    from huggingface_hub import get_token

    token = (get_token() or "").encode()
    for path in sorted(files.rglob("*")):
        # Weights are numbers; all else is text that somebody may have written a token into.
        if path.is_file() and path.suffix not in (".safetensors", ".bin") and _holds_secret(path, token):
            name = path.relative_to(files)
            raise HubError(f"{name} holds what looks like an access token", f"Take it out of {name}.")


def _holds_secret(path: Path, token: bytes) -> bool:
    with path.open("rb") as stream:
        rest = b""
        while block := stream.read(READ_AT_ONCE):
            text = rest + block
            if (token and token in text) or holds_token(text.decode("ascii", errors="replace")):
                return True
            # A token may lie across two blocks.
            rest = text[-256:]
    return False
