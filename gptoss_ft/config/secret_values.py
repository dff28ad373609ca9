"""Values that are access tokens: a config is copied into the output folder, the manifest and the uploaded model."""

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from gptoss_ft.redaction import known_secrets, redacted

IN_A_CONFIG = (
    "holds what looks like an access token, and a job is copied into its output folder and its model: set HF_TOKEN "
    "or WANDB_API_KEY in the environment instead, and revoke a token that was shared"
)

# A password may be a word, which a path or a prompt may hold as well; an access token is longer.
SURELY_NO_WORD = 16


def secret_keys(values: Mapping[str, Any]) -> Iterator[str]:
    """The dotted keys (`hub.repo_id`, `dataset[1].path`) of the values that look like a token, or hold one that the
    environment gives; of a mapping with such a name, the mapping's."""
    secrets = [secret for secret in known_secrets() if len(secret) >= SURELY_NO_WORD]
    for section, content in values.items():
        yield from _within(section, content, secrets)


def _within(key: str, value: Any, secrets: Collection[str]) -> Iterator[str]:
    if isinstance(value, str) and redacted(value, secrets) != value:
        yield key
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _within(f"{key}[{index}]", item, secrets)
    elif isinstance(value, dict):
        if any(isinstance(name, str) and redacted(name, secrets) != name for name in value):
            yield key
        for name, item in value.items():
            yield from _within(f"{key}.{name}", item, secrets)
