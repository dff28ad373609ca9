"""Secrets, kept out of everything that is shown or written: errors, tracebacks, logs, cards."""

import io
import re
import sys
from collections.abc import Collection
from contextlib import suppress
from typing import TextIO

from gptoss_ft.runtime import SHORTEST_SECRET, secrets_in_environment

HIDDEN = "(token)"
# Secrets from this length on are hidden wherever they stand.
LONG = 16
# Access tokens of Hugging Face (a user's, an organisation's), GitHub, GitLab, Slack, OpenAI's kin, W&B and AWS.
TOKEN = re.compile(
    r"(?:hf|api_org)_[A-Za-z0-9]{30,}"
    r"|(?<![A-Za-z0-9])(?:gh[opsur]_|github_pat_|glpat-|wandb_v1_|xox[abp]-)[\w-]{20,}"
    r"|(?<![A-Za-z0-9])sk-(?=[\w-]{0,40}\d)[\w-]{20,}"
    r"|(?<![A-Za-z0-9])AKIA[0-9A-Z]{16}(?![A-Za-z0-9])"
)
# What stands before the host in the address of a proxy or an index: user, password or token.
CREDENTIALS = re.compile(r"(?<=://)[^\s/'\"]+(?=@)")


def known_secrets() -> frozenset[str]:
    """The secrets that this process was given: by its environment, or by a login that the hub's client keeps."""
    stored = None
    # Else nothing has read the login's file, and importing the client takes longer than most errors do.
    if "huggingface_hub" in sys.modules:
        from huggingface_hub import get_token

        # It also asks services, and reads a file that may be another's.
        with suppress(Exception):
            stored = get_token()
    return secrets_in_environment() | frozenset([stored] if stored and len(stored) >= SHORTEST_SECRET else [])


def redacted(text: str, secrets: Collection[str] | None = None) -> str:
    """`text` without the secrets in use (`secrets`, else all that are known), without what looks like an access token,
    and without the password in an address."""
    # The longest first: one may begin with another.
    for secret in sorted(known_secrets() if secrets is None else secrets, key=len, reverse=True):
        # A short one may be a word that stands elsewhere, too.
        alone = rf"(?<!\w){re.escape(secret)}(?!\w)" if len(secret) < LONG else re.escape(secret)
        text = re.sub(alone, HIDDEN, text)
    return CREDENTIALS.sub(HIDDEN, TOKEN.sub(HIDDEN, text))


class RedactedStream(io.TextIOBase):
    """Writes to `stream` what `redacted` leaves, a line at a time, since a token may come in pieces; a line that has
    not ended is written at `flush`. The secrets are those that are known when it is made."""

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._rest, self._secrets = stream, "", known_secrets()

    def write(self, text: str) -> int:
        # Bars end their lines with \r.
        ended = max(text.rfind("\n"), text.rfind("\r")) + 1
        if ended:
            lines, self._rest = self._rest + text[:ended], text[ended:]
            self._stream.write(redacted(lines, self._secrets))
        else:
            self._rest += text
        return len(text)

    def flush(self) -> None:
        if self._rest:
            rest, self._rest = self._rest, ""
            self._stream.write(redacted(rest, self._secrets))
        self._stream.flush()

    def fileno(self) -> int:
        return self._stream.fileno()

    def writable(self) -> bool:
        return True

    @property
    def encoding(self) -> str:  # type: ignore[override]  # typeshed's is a plain attribute
        return self._stream.encoding
