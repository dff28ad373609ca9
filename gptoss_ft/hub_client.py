"""Downloads that go on: what the hub's client does not try again, and whether what arrived is what was sent.

huggingface_hub 1.33 tries HEAD requests and listings again, and goes on with a file whose connection was closed or
timed out. It does not try again what the hub answers with 5xx to a GET, begins a file anew whose connection was reset,
and compares a file's length but not its hash (`hub_hashes`).
"""

import functools
import logging
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import httpx

from gptoss_ft.errors import HubError
from gptoss_ft.hub_errors import causes
from gptoss_ft.hub_hashes import Repositories, remove_damaged
from gptoss_ft.reporting.console import TOLD

# Seconds before each further try. A hub that is down for longer is for a person to look at.
WAITS = (2.0, 4.0, 8.0, 16.0)
# The hub counts requests in windows of five minutes.
LONGEST_WAIT = 300.0
# What takes longer is told on the screen.
UNTOLD_WAIT = 5.0
BROKEN_OFF = (
    httpx.ReadError, httpx.WriteError, httpx.ReadTimeout, httpx.WriteTimeout, httpx.RemoteProtocolError,
)  # fmt: skip
TRANSIENT = (408, 429, 500, 502, 503, 504)

Answer = TypeVar("Answer")
_log = logging.getLogger(__name__)


def patiently(call: Callable[[], Answer]) -> Answer:
    """The answer of `call`, asked again after a while where hub or network failed in a way that passes. The last error
    is raised as it is; one that does not pass is the last."""
    _go_on_after_reset()
    _tell_of_clients_waits()
    for wait in WAITS:
        try:
            return call()
        except Exception as error:
            passing = _passing(error, wait)
            if passing is None:
                raise
            why, seconds = passing
            _tell(why, seconds)
            time.sleep(seconds)
    return call()


def _tell(why: str, seconds: float) -> None:
    _log.warning("%s; trying again in %.0f s", why, seconds, extra=TOLD if seconds > UNTOLD_WAIT else None)


def _passing(error: Exception, wait: float) -> tuple[str, float] | None:
    """What went wrong, and the seconds after which to ask again: `wait` unless the hub names its own. None where that
    would be of no use."""
    from huggingface_hub.errors import HfHubHTTPError

    for link in causes(error):
        if isinstance(link, HfHubHTTPError):
            response = link.response
            # The client has tried a HEAD again itself.
            if response.status_code not in TRANSIENT or response.request.method == "HEAD":
                return None
            wait = _asked_to_wait(response.headers) or wait
            why = f"the hub answered {response.status_code} to {response.request.url.path}"
            return (why, wait) if wait <= LONGEST_WAIT else None
        # Not where no connection came about: no network is told at once.
        if isinstance(link, BROKEN_OFF):
            return "the connection to the hub broke off", wait
        if isinstance(link, OSError) and str(link).startswith("Consistency check failed"):
            return "a file arrived in part", wait
    return None


def _asked_to_wait(headers: httpx.Headers) -> float | None:
    from huggingface_hub.utils import parse_ratelimit_headers

    limit = parse_ratelimit_headers(headers)
    if limit is not None and limit.remaining == 0:
        return float(limit.reset_in_seconds + 1)
    after = headers.get("Retry-After", "")
    return float(after) if after.isdigit() else None


class _ClientsWaits(logging.Filter):
    """Takes what the hub's client logs of its own further tries, and says it as we do (huggingface_hub 1.33)."""

    def __init__(self) -> None:
        super().__init__()
        self._why: dict[int | None, str] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        words = record.getMessage()
        if failed := re.match(r"HTTP Error (\d+) thrown while requesting \w+ (\S+)", words):
            self._why[record.thread] = f"the hub answered {failed[1]} to {httpx.URL(failed[2]).path}"
        elif unanswered := re.match(r"'.*' thrown while requesting \w+ (\S+)$", words, re.DOTALL):
            self._why[record.thread] = f"the hub did not answer to {httpx.URL(unanswered[1]).path}"
        elif wait := re.match(r"(?:Rate limited\. Waiting|Retrying in) ([\d.]+)s", words):
            _tell(self._why.pop(record.thread, "the connection to the hub broke off"), float(wait[1]))
        return False


@functools.cache
def _tell_of_clients_waits() -> None:
    """Else nobody sees them: the client's log is set to errors (`prepare_environment`)."""
    clients = logging.getLogger("huggingface_hub.utils._http")
    clients.setLevel(logging.WARNING)
    clients.addFilter(_ClientsWaits())


class _Body(httpx.SyncByteStream):
    """An answer's body, whose connection being reset reads like its being closed: that the client goes on after."""

    def __init__(self, body: httpx.SyncByteStream) -> None:
        self._body = body

    def __iter__(self) -> Iterator[bytes]:
        try:
            yield from self._body
        except httpx.ReadError as error:
            raise httpx.RemoteProtocolError(str(error)) from error

    def close(self) -> None:
        self._body.close()


class _Client(httpx.Client):
    def send(self, request: httpx.Request, *, stream: bool = False, **options: Any) -> httpx.Response:
        response = super().send(request, stream=stream, **options)
        if stream and isinstance(response.stream, httpx.SyncByteStream):
            response.stream = _Body(response.stream)
        return response


@functools.cache
def _go_on_after_reset() -> None:
    """Have huggingface_hub's own client, with its hooks, see a reset connection as one it may go on after."""
    from huggingface_hub import get_session, set_client_factory

    hooks = get_session().event_hooks
    set_client_factory(lambda: _Client(event_hooks=hooks, follow_redirects=True, timeout=None))


def fetch_snapshot(repository: str, **options: Any) -> Path:
    """As huggingface_hub's `snapshot_download` of a model, patiently, and with the hash of every file compared with
    the hub's. `HubError` for a file that arrived damaged twice."""
    from huggingface_hub import snapshot_download

    def download() -> Path:
        return Path(patiently(lambda: snapshot_download(repository, **options)))

    return unharmed(repository, "models", download, download)


def unharmed(name: str, kind: Repositories, fetch: Callable[[], Answer], again: Callable[[], Answer]) -> Answer:
    """What `fetch` makes of a repository's files, or `again` where one of them had arrived damaged. `HubError` where
    one is damaged then, too."""

    def damaged() -> list[str]:
        return remove_damaged(name, kind)

    try:
        fetched = fetch()
    except Exception:
        # Reading a damaged file can fail in any way.
        if not damaged():
            raise
    else:
        if not damaged():
            return fetched
    fetched = again()
    if names := damaged():
        raise HubError(
            f"{', '.join(names)} of {name} arrived damaged twice",
            "Try again, without a proxy or mirror that changes files (https_proxy, HF_ENDPOINT).",
        )
    return fetched
