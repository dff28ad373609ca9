"""No token is in what is told of the hub's errors."""

import traceback

import httpx
import pytest
from answering_hub import NAME, Hub

from gptoss_ft.errors import HubError, JobError
from gptoss_ft.hub_errors import explained
from gptoss_ft.redaction import redacted


def traceback_of(error: BaseException) -> str:
    return "".join(traceback.format_exception(error))


def test_no_token_is_in_a_message(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "a-token-of-no-known-form")
    other = "hf_" + "K4" * 17
    both = f"{other} and a-token-of-no-known-form"
    assert redacted(f"x {both} y hf_short") == "x (token) and (token) y hf_short"
    server.answers(400, "", both)
    with pytest.raises(HubError) as refused, explained(NAME, "hub.repo_id"):
        server.create()
    assert refused.value.message.endswith("(400): (token) and (token)")
    # The client's own quotes the hub's words.
    assert not any(secret in traceback_of(refused.value) for secret in (other, "a-token-of-no-known-form"))
    # What is not the hub's passes through, but not with a token in it.
    with pytest.raises(HubError) as caught, explained(NAME, "hub.repo_id"):
        raise ValueError(f"Illegal header value {both!r}")
    assert caught.value.message == f"{NAME}: Illegal header value '(token) and (token)'"
    assert caught.value.__cause__ is None and caught.value.__suppress_context__


@pytest.mark.parametrize("outer", [ValueError("a shape is wrong"), ConnectionError("reset")], ids=["defect", "network"])
@pytest.mark.parametrize("is_cause", [True, False], ids=["cause", "context"])
def test_no_token_is_in_a_cause(outer: Exception, is_cause: bool) -> None:
    secret = "hf_" + "K4" * 17
    inner = httpx.LocalProtocolError(f"Illegal header value 'Bearer {secret}'")

    def raises() -> None:
        try:
            raise inner
        except httpx.LocalProtocolError:
            if is_cause:
                raise outer from inner
            raise outer  # noqa: B904  # what is tested

    with pytest.raises(JobError) as caught, explained(NAME, "model.name"):
        raises()
    assert secret not in traceback_of(caught.value)
    assert type(caught.value) is HubError


def test_a_defect_keeps_its_traceback_without_the_token_in_its_cause() -> None:
    secret = "hf_" + "K4" * 17

    def raises() -> None:
        try:
            raise KeyError(f"Bearer {secret}")
        except KeyError as error:
            raise ValueError("a shape is wrong") from error

    with pytest.raises(ValueError, match="a shape is wrong") as caught, explained(NAME, "model.name"):
        raises()
    shown = traceback_of(caught.value)
    assert secret not in shown
    assert "in raises" in shown
