"""What the local hub of `tests/hub_client` holds, and a download of it."""

import json
from pathlib import Path

from rich.console import Console

from gptoss_ft.config import DatasetSection, ModelSection
from gptoss_ft.model.loading import fetch

NAME = "ann/model"
MODEL = ModelSection(name=NAME, load_in_4bit=False, max_seq_length=64)
WEIGHTS = "model.safetensors"
PIECE = 1024
ROWS = b"".join(json.dumps({"text": f"row {number}"}).encode() + b"\n" for number in range(5000))


def rows() -> DatasetSection:
    return DatasetSection(path="ann/rows")


def fetched(tmp_path: Path) -> dict[str, bytes]:
    fetch(MODEL, NAME, Console(quiet=True))
    (folder,) = (tmp_path / "hub" / "models--ann--model" / "snapshots").iterdir()
    return {path.name: path.read_bytes() for path in folder.iterdir()}
