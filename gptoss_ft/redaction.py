"""Secrets, kept out of everything that is shown or written: errors, tracebacks, logs, cards."""

import io
import logging
import os
import re
import sys
import threading
from collections.abc import Collection
from contextlib import suppress
from functools import cache
from netrc import NetrcParseError, netrc
from pathlib import Path
from typing import Any, TextIO
from weakref import WeakSet

from gptoss_ft.runtime import SHORTEST_SECRET, login_file, secrets_in_environment

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
# The same in the very forms in which they are given out.
GIVEN_OUT = re.compile(
    r"(?:hf|api_org)_[A-Za-z0-9]{30,}"
    r"|(?<![A-Za-z0-9])(?:"
    r"gh[opsur]_[A-Za-z0-9]{36,}"
    r"|github_pat_[A-Za-z0-9]{22}_[A-Za-z0-9]{59}"
    r"|glpat-[\w-]{20,}"
    r"|xox[abp]-\d{9,}-[\w-]{20,}"
    r"|wandb_v1_\w{40,}"
    r"|sk-(?:(?:proj|svcacct|admin)-[\w-]{32,}|ant-[a-z]+\d+-[\w-]{80,}|or-v1-[0-9a-f]{64}|[A-Za-z0-9]{48})"
    r"|AKIA[0-9A-Z]{16}(?![A-Za-z0-9])"
    r")"
)
# What is written where a reader puts the own.
PLACEHOLDER = re.compile(r"x{6}|0{8}|example|placeholder|redacted|your\w{0,12}(?:token|key)", re.IGNORECASE)
# What stands before the host in the address of a proxy or an index: user, password or token.
CREDENTIALS = re.compile(r"(?<=://)[^\s/'\"]+(?=@)")


def known_secrets() -> frozenset[str]:
    """The secrets that this process was given: by its environment, or by a login that the hub's client or ~/.netrc
    keeps."""
    stored = None
    # Else nothing has read the login's file, and importing the client takes longer than most errors do.
    if "huggingface_hub" in sys.modules:
        from huggingface_hub import get_token

        # It also asks services, and reads a file that may be another's.
        with suppress(Exception):
            stored = get_token()
    kept = [stored or "", *_passwords_in(login_file())]
    return secrets_in_environment() | frozenset(secret for secret in kept if len(secret) >= SHORTEST_SECRET)


@cache
def _passwords_in(file: Path) -> tuple[str, ...]:
    """Those of a .netrc; none where it is not there, or is none."""
    try:
        hosts = netrc(file).hosts
    except (OSError, NetrcParseError, UnicodeDecodeError):
        return ()
    return tuple(password for _, _, password in hosts.values() if password)


def redacted(text: str, secrets: Collection[str] | None = None) -> str:
    """`text` without the secrets in use (`secrets`, else all that are known), without what looks like an access token,
    and without the password in an address."""
    # The longest first: one may begin with another.
    for secret in sorted(known_secrets() if secrets is None else secrets, key=len, reverse=True):
        # A short one may be a word that stands elsewhere, too.
        alone = rf"(?<!\w){re.escape(secret)}(?!\w)" if len(secret) < LONG else re.escape(secret)
        text = re.sub(alone, HIDDEN, text)
    return CREDENTIALS.sub(HIDDEN, TOKEN.sub(HIDDEN, text))


def holds_token(text: str) -> bool:
    """Whether an access token is in `text`: in a form in which one is given out, and none of a documentation's. What
    `redacted` hides may be less sure; what this finds is refused, and text may speak of tokens."""
    return any(not PLACEHOLDER.search(found.group()) for found in GIVEN_OUT.finditer(text))


class _RedactedRecord(logging.LogRecord):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # Arguments that do not fit the message are the handler's to complain of.
        with suppress(Exception):
            self.msg, self.args = redacted(self.getMessage()), ()


def redact_log_records() -> None:
    """Have whatever any library logs from now on, wherever it goes, be without secrets."""
    logging.setLogRecordFactory(_RedactedRecord)


class RedactedStream(io.TextIOBase):
    """Writes to `stream` what `redacted` leaves, a line at a time, since a token may come in pieces; a line that has
    not ended is written at `flush`, but for what may be the first piece of a token: that waits for the next, or for
    `close`, which leaves `stream` open. The secrets are those that are known when it is made. Threads may share it."""

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._rest, self._secrets = stream, "", known_secrets()
        self._unlock()
        _streams.add(self)

    def _unlock(self) -> None:
        # A signal's handler may write in the middle of a write.
        self._lock = threading.RLock()

    def write(self, text: str) -> int:
        # Bars end their lines with \r.
        ended = max(text.rfind("\n"), text.rfind("\r")) + 1
        with self._lock:
            whole, self._rest = (self._rest + text[:ended], text[ended:]) if ended else ("", self._rest + text)
            self._put(whole)
        return len(text)

    def flush(self) -> None:
        with self._lock:
            whole = len(self._rest) - self._begun()
            shown, self._rest = self._rest[:whole], self._rest[whole:]
            self._put(shown)
            self._stream.flush()

    def close(self) -> None:
        with self._lock:
            if not self._stream.closed:
                rest, self._rest = self._rest, ""
                self._put(rest)
        super().close()

    def _put(self, text: str) -> None:
        if text:
            self._stream.write(redacted(text, self._secrets))

    def _begun(self) -> int:
        """How many characters at the end may belong to a secret of which more is to come: those of the last word, or
        all where a password has spaces."""
        if any(len(secret.split()) > 1 for secret in self._secrets):
            return len(self._rest)
        return len(self._rest) - max(self._rest.rfind(" "), self._rest.rfind("\t")) - 1

    def fileno(self) -> int:
        return self._stream.fileno()

    def writable(self) -> bool:
        return True

    @property
    def encoding(self) -> str:  # type: ignore[override]  # typeshed's is a plain attribute
        return self._stream.encoding


# A child that was forked in the middle of another thread's write would wait for ever.
_streams: WeakSet[RedactedStream] = WeakSet()


def _unlock_in_child() -> None:
    for stream in _streams:
        stream._unlock()


os.register_at_fork(after_in_child=_unlock_in_child)
