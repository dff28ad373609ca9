"""A config.yaml in the current folder, the job that it gives, and the lines of what is wrong in it."""

from pathlib import Path

import pytest

from gptoss_ft.config import LoadedConfig, load_job_config
from gptoss_ft.errors import ConfigError, ExitCode

CONFIG = Path("config.yaml")
STEPS_OR_EPOCHS = "a run ends by steps or by epochs, and training.num_train_epochs is"
SECTIONS = "model, lora, dataset, training, performance, evaluation, tracking, hub"
TWO_ENTRIES = "dataset:\n  - path: a\n    max_samples: 5\n  - path: b\n"


def load(text: str | bytes, *overrides: str) -> LoadedConfig:
    CONFIG.write_bytes(text.encode() if isinstance(text, str) else text)
    return load_job_config(CONFIG, overrides)


def errors(text: str | bytes, *overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(text, *overrides)
    assert caught.value.exit_code == ExitCode.CONFIG
    return [str(problem) for problem in caught.value.problems]
