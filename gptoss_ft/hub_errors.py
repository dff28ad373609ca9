"""The hub's and the network's exceptions, as one sentence with a cure."""

import errno
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from gptoss_ft.errors import DataError, HubError, JobError, MachineError
from gptoss_ft.redaction import redacted


@contextmanager
def explained(name: str, key: str) -> Iterator[None]:
    """Turn what libraries raise while they fetch or open `name` (given by config key `key`) into a `JobError`.

    An exception that is not about the hub, the network or what the repository holds passes through. No traceback of
    what leaves here shows a token.
    """
    try:
        yield
    except JobError:
        raise
    except Exception as error:
        found = _explain(error, name, key)
        if found is not None:
            raise found from (None if _shows_token(error) else error)
        if _shows_token(error, chain=False):
            # An address or a header that holds it.
            raise HubError(f"{name}: {redacted(str(error))}", "Set HF_TOKEN alone to the token.", key) from None
        if _shows_token(error):
            raise error from None
        raise


def _shows_token(error: Exception, chain: bool = True) -> bool:
    """Whether a token is in the traceback of `error`, or with `chain` in one of its causes."""
    shown = "".join(traceback.format_exception(error, chain=chain))
    return redacted(shown) != shown


def _explain(error: BaseException, name: str, key: str) -> JobError | None:
    # transformers and datasets raise OSError or ValueError around the hub's own exception: the cause knows more.
    for link in reversed(causes(error)):
        found = _explain_one(link, name, key)
        if found is not None:
            return found
    return None


def causes(error: BaseException) -> list[BaseException]:
    """`error` and what it was raised from, the last first."""
    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in chain:
        chain.append(link)
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)
    return chain


def _explain_one(error: BaseException, name: str, key: str) -> JobError | None:
    return _refused(error, name, key) or _unreachable(error, name, key) or _unusable(error, name, key)


def _refused(error: BaseException, name: str, key: str) -> JobError | None:
    """The hub answered, but not with what was asked for."""
    from datasets.exceptions import DatasetNotFoundError
    from huggingface_hub import errors as hub

    # datasets 4.8 raises `from None`: only the words tell what the hub said.
    words = str(error) if isinstance(error, DatasetNotFoundError) else ""
    if isinstance(error, hub.GatedRepoError) or "is a gated dataset" in words:
        page = f"datasets/{name}" if key.startswith("dataset.") else name
        return HubError(
            f"{name} is gated: access was not granted with the token in use",
            f"Accept its terms on https://huggingface.co/{page}, then set HF_TOKEN to a token of that account.",
            key,
        )
    if isinstance(error, hub.RevisionNotFoundError) or words.startswith("Revision "):
        return HubError(f"{name} has no such revision", "Check the revision, or leave it null.", key)
    if isinstance(error, hub.RepositoryNotFoundError | DatasetNotFoundError):
        return HubError(
            f"{name} is not on the hub, or is private",
            "Check the name; for a private repository set HF_TOKEN to a token that can read it.",
            key,
        )
    if isinstance(error, hub.EntryNotFoundError) and not isinstance(error, hub.LocalEntryNotFoundError):
        return _lacks_files(error, name, key)
    if isinstance(error, hub.HfHubHTTPError):
        return _explain_http(error, name, key)
    return None


def _explain_http(error: Any, name: str, key: str) -> JobError:
    status = error.response.status_code
    if status == 401:
        return HubError(f"the hub refused the token for {name} (401)", "Set HF_TOKEN to a valid token.", key)
    if status == 403:
        return HubError(f"the token may not do this with {name} (403)", "Use a token with the rights it needs.", key)
    if status == 404:
        return HubError(f"the hub knows no {name} (404)", "Check the name, as owner/name.", key)
    if status in (400, 402, 409, 413, 422):
        # What was asked for cannot be had: only the hub knows why.
        why = redacted(" ".join((error.server_message or "no reason given").split()))
        return HubError(
            f"the hub refused {name} ({status}): {why}", "Change what it names; again it says the same.", key
        )
    if status == 429:
        return HubError(f"the hub was asked too often for {name} (429)", "Try again in some minutes.", key)
    return HubError(f"the hub answered {status} for {name}", "Try again in a while.", key)


def _unreachable(error: BaseException, name: str, key: str) -> JobError | None:
    """There was no answer, or none that is the hub's."""
    import httpx
    import requests
    from huggingface_hub import errors as hub

    if isinstance(error, hub.FileMetadataError):
        return HubError(
            f"what answers for {name} does not answer as the hub does: {str(error).splitlines()[0]}",
            "Check HF_ENDPOINT and the proxy (https_proxy).",
            key,
        )
    # datasets makes a ConnectionError with the name of the hub's exception in brackets.
    is_offline = isinstance(error, ConnectionError) and "OfflineModeIsEnabled" in str(error)
    if is_offline or isinstance(error, hub.LocalEntryNotFoundError | hub.OfflineModeIsEnabled):
        return HubError(
            f"{name} is not in the local cache and the hub cannot be reached",
            f"Check the network and HF_HUB_OFFLINE, or download it once with a network.{_without_network(key)}",
            key,
        )
    network = (
        httpx.RequestError,
        httpx.InvalidURL,
        hub.XetDownloadError,
        requests.ConnectionError,
        requests.Timeout,
        ConnectionError,
        TimeoutError,
    )
    if isinstance(error, network):
        return HubError(
            f"the hub cannot be reached for {name}",
            "Check the network, the proxy (https_proxy) and HF_ENDPOINT; with all in the cache, set HF_HUB_OFFLINE=1."
            + _without_network(key),
            key,
        )
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return MachineError(
            f"the disk is full: {name} cannot be stored ({error.filename or 'the hub cache'})",
            "Make room, or set HF_HOME to a folder on a larger disk.",
            key,
        )
    return None


def _without_network(key: str) -> str:
    """What can be tried where neither a model nor rows can be fetched."""
    wanted = key.startswith(("model.", "dataset"))
    return " The job configs/smoke.yaml runs without a network." if wanted else ""


def _unusable(error: BaseException, name: str, key: str) -> JobError | None:
    """The name is no name, or what stands behind it is not what is needed."""
    import pyarrow as pa
    from datasets.data_files import EmptyDatasetError
    from datasets.exceptions import DataFilesNotFoundError, DatasetGenerationError
    from huggingface_hub.errors import HFValidationError
    from safetensors import SafetensorError

    text = redacted(" ".join(str(error).split()))
    is_no_name = (
        isinstance(error, HFValidationError)
        or (isinstance(error, FileNotFoundError) and text.startswith("Couldn't find any data file at"))
        or (isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG)
    )
    if is_no_name:
        return DataError(
            f"{name} is neither a file or folder here nor a name on the hub",
            "Check the path, which starts from the current folder, or the name, as owner/name.",
            key,
        )
    if isinstance(error, DataFilesNotFoundError | EmptyDatasetError):
        return _lacks_files(error, name, key)
    if isinstance(error, DatasetGenerationError | pa.ArrowException):
        return DataError(f"{name} cannot be read: {text}", "Its files are broken or differ in their columns.", key)
    if isinstance(error, RuntimeError) and text.startswith("Dataset scripts are no longer supported"):
        return DataError(f"{name} is a script, which is not run", "Name a data set of plain files.", key)
    if isinstance(error, SafetensorError):
        return DataError(f"{name} holds a broken weights file: {text}", "Download or copy it again.", key)
    if isinstance(error, OSError) and "is not a valid JSON file" in text:
        return DataError(f"{name} holds a broken file: {text}", "Download or copy it again.", key)
    if isinstance(error, OSError) and text.startswith("Error no file named"):
        return _lacks_files(error, name, key)
    wrong_names = ("BuilderConfig", "Unknown split", "Bad split", "Config name is missing")
    if isinstance(error, ValueError) and any(words in text for words in wrong_names):
        return DataError(f"{name}: {text}", "Check dataset.name and dataset.split.", key)
    return None


def _lacks_files(error: BaseException, name: str, key: str) -> JobError:
    first_line = redacted(str(error).strip().partition("\n")[0])
    return DataError(f"{name} holds none of the files that are needed: {first_line}", "Check the name.", key)
