"""Values that are access tokens: a config is copied into the output folder, the manifest and the uploaded model."""

import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from gptoss_ft.redaction import holds_token, known_secrets

IN_A_CONFIG = (
    "holds what looks like an access token, and a job is copied into its output folder and its model: set HF_TOKEN "
    "or WANDB_API_KEY in the environment instead, and revoke a token that was shared"
)

# A password may be a word, which a path or a prompt may hold as well; an access token is longer.
SURELY_NO_WORD = 16
# An address that gives a password, and nothing else; one in a prompt is text, and `git@` is a user's name.
WITH_PASSWORD = re.compile(r"\s*[a-z][a-z0-9+.-]*://[^\s/:@]*:[^\s/@]+@\S+\s*", re.IGNORECASE)


def secret_keys(values: Mapping[str, Any]) -> Iterator[str]:
    """The dotted keys (`hub.repo_id`, `dataset[1].path`) of the values that look like a token, or hold one that the
    environment gives; of a mapping with such a name, the mapping's."""
    secrets = [secret for secret in known_secrets() if len(secret) >= SURELY_NO_WORD]
    for section, content in values.items():
        yield from _within(section, content, secrets)


def _within(key: str, value: Any, secrets: Collection[str]) -> Iterator[str]:
    if _is_secret(value, secrets):
        yield key
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _within(f"{key}[{index}]", item, secrets)
    elif isinstance(value, dict):
        if any(_is_secret(name, secrets) for name in value):
            yield key
        for name, item in value.items():
            yield from _within(f"{key}.{name}", item, secrets)


def _is_secret(value: Any, secrets: Collection[str]) -> bool:
    if not isinstance(value, str):
        return False
    return (
        any(secret in value for secret in secrets) or holds_token(value) or WITH_PASSWORD.fullmatch(value) is not None
    )
