"""The hub's and the network's exceptions, as one sentence with a cure."""

from collections.abc import Iterator
from contextlib import contextmanager

from gptoss_ft.errors import DataError, HubError, JobError


@contextmanager
def explained(name: str, key: str) -> Iterator[None]:
    """Turn what libraries raise while they fetch or open `name` (given by config key `key`) into a `JobError`.

    An exception that is not about the hub, the network or what the repository holds passes through.
    """
    try:
        yield
    except JobError:
        raise
    except Exception as error:
        found = _explain(error, name, key)
        if found is None:
            raise
        raise found from error


def _explain(error: BaseException, name: str, key: str) -> JobError | None:
    # transformers and datasets raise OSError or ValueError around the hub's own exception: the cause knows more.
    for link in reversed(_chain(error)):
        found = _explain_one(link, name, key)
        if found is not None:
            return found
    return None


def _chain(error: BaseException) -> list[BaseException]:
    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in chain:
        chain.append(link)
        link = link.__cause__ or link.__context__
    return chain


def _explain_one(error: BaseException, name: str, key: str) -> JobError | None:
    import httpx
    import requests
    from datasets import exceptions as datasets_errors
    from huggingface_hub import errors as hub

    if isinstance(error, hub.GatedRepoError):
        return HubError(
            f"{name} is gated: access was not granted with the token in use",
            f"Accept its terms on https://huggingface.co/{name}, then set HF_TOKEN to a token of that account.",
            key,
        )
    if isinstance(error, hub.RevisionNotFoundError):
        return HubError(f"{name} has no such revision", "Check the revision, or leave it null.", key)
    if isinstance(error, hub.RepositoryNotFoundError):
        return HubError(
            f"{name} is not on the hub, or is private",
            "Check the name; for a private repository set HF_TOKEN to a token that can read it.",
            key,
        )
    if isinstance(error, hub.LocalEntryNotFoundError | hub.OfflineModeIsEnabled):
        return HubError(
            f"{name} is not in the local cache and the hub cannot be reached",
            "Check the network and HF_HUB_OFFLINE, or download it once with a network.",
            key,
        )
    if isinstance(error, hub.HfHubHTTPError):
        return _explain_http(error, name, key)
    if isinstance(error, datasets_errors.DataFilesNotFoundError | hub.EntryNotFoundError):
        return DataError(f"{name} holds none of the files that are needed: {_first_line(error)}", key=key)
    if isinstance(error, datasets_errors.DatasetNotFoundError):
        return HubError(f"{_first_line(error)}", "Check the name; for a private data set set HF_TOKEN.", key)
    network = (httpx.TransportError, requests.ConnectionError, requests.Timeout, ConnectionError, TimeoutError)
    if isinstance(error, network):
        return HubError(
            f"the hub cannot be reached for {name}",
            "Check the network, the proxy (https_proxy) and HF_ENDPOINT; with all in the cache, set HF_HUB_OFFLINE=1.",
            key,
        )
    is_wrong_name = isinstance(error, ValueError) and any(
        words in str(error) for words in ("BuilderConfig", "Unknown split", "Bad split", "Config name is missing")
    )
    if is_wrong_name:
        return DataError(f"{name}: {' '.join(str(error).split())}", "Check dataset.name and dataset.split.", key)
    if isinstance(error, OSError) and "valid model identifier" in str(error):
        return HubError(f"{name} is neither a folder here nor a model on the hub", "Check the name.", key)
    return None


def _explain_http(error: Exception, name: str, key: str) -> JobError:
    response = getattr(error, "response", None)
    status = getattr(response, "status_code", None)
    if status == 401:
        return HubError(f"the hub refused the token for {name} (401)", "Set HF_TOKEN to a valid token.", key)
    if status == 403:
        return HubError(f"the token may not do this with {name} (403)", "Use a token with the rights it needs.", key)
    return HubError(f"the hub answered {status} for {name}", "Try again in a while.", key)


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n")[0]
