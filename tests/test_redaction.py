"""Secrets in what is shown and logged → hidden; everything else → as it was."""

import io
import logging
import warnings
from collections.abc import Collection
from pathlib import Path
from threading import Thread

import pytest

from gptoss_ft import redaction
from gptoss_ft.redaction import RedactedStream, redact_log_records, redacted
from gptoss_ft.reporting.console import quiet_libraries

HUB = "hf_" + "K4" * 17
KEY = "c0ffee12" * 5


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"Bearer {HUB}, and", "Bearer (token), and"),
        ("api_org_" + "a" * 34, "(token)"),
        ("ghp_" + "a1" * 18 + " github_pat_" + "b2" * 20, "(token) (token)"),
        ("sk-proj-" + "a1B2" * 8, "(token)"),
        ("AKIA" + "A1B2" * 4, "(token)"),
        ("https://ann:pass@proxy:8080/x", "https://(token)@proxy:8080/x"),
    ],
)
def test_what_looks_like_a_secret_is_hidden(text: str, shown: str) -> None:
    assert redacted(text) == shown


@pytest.mark.parametrize(
    "text",
    [
        "hf_hub_download of hf_short", "sk-learn-and-its-many-friends-of-old", "task-1234567890-1234567890-12345",
        "a" * 64, "c" * 40, "ann@example.com", "https://huggingface.co/ann/model", "TOKENIZERS_PARALLELISM",
    ],
)  # fmt: skip
def test_what_is_none_stays(text: str) -> None:
    assert redacted(text) == text


@pytest.mark.parametrize("name", ["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "WANDB_API_KEY", "MY_SECRET", "aws_access_key"])
def test_what_the_environment_names_a_secret_is_hidden(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, f" {KEY}\n")
    assert redacted(f"key={KEY};") == "key=(token);"
    monkeypatch.setenv(name, "short")
    assert redacted("in short") == "in short"


@pytest.mark.parametrize("name", ["https_proxy", "HTTP_PROXY", "ALL_PROXY"])
@pytest.mark.parametrize("form", ["{}@host:3128", "http://{}@host:3128", " socks5://{}@host "])
def test_a_proxys_login_is_hidden_with_a_scheme_or_without(
    name: str, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, form.format("ann:pw"))
    assert redacted("no way through ann:pw@host:3128, pw") == "no way through (token)@host:3128, pw"
    monkeypatch.setenv(name, form.format("ann:long%40password"))
    assert redacted("ann:long%40password@host") == "(token)@host"
    assert redacted("long@password or long%40password") == "(token) or (token)"
    for without in ("host:3128", "ann@host:3128", "ann:@host"):
        monkeypatch.setenv(name, without)
        assert redacted("ann: host:3128 3128") == "ann: host:3128 3128"


@pytest.mark.parametrize("variable", ["HOME", "NETRC"])
def test_a_key_that_wandb_keeps_is_hidden(variable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NETRC", raising=False)
    file = tmp_path / ".netrc"
    monkeypatch.setenv(variable, str(tmp_path if variable == "HOME" else file))
    file.write_text(f"machine api.wandb.ai\n  login user\n  password {KEY}\n")
    assert redacted(f"key {KEY}") == "key (token)"


@pytest.mark.parametrize("content", [b"machine", b"\xff\xfe", b"machine a login b password short"])
def test_a_login_file_that_cannot_be_read_hides_nothing(
    content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    (tmp_path / "netrc").write_bytes(content)
    assert redacted("in short") == "in short"


def test_of_two_secrets_the_longer_is_hidden_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_TOKEN", "12345678")
    monkeypatch.setenv("B_TOKEN", "12345678-rest")
    assert redacted("12345678-rest 12345678") == "(token) (token)"


def test_a_token_in_pieces_is_hidden() -> None:
    target = io.StringIO()
    stream = RedactedStream(target)
    for piece in ("sent ", HUB[:9], HUB[9:], " once\nand", " again ", HUB):
        stream.write(piece)
    assert target.getvalue() == "sent (token) once\n"
    stream.flush()
    assert target.getvalue() == "sent (token) once\nand again "
    stream.close()
    assert target.getvalue() == "sent (token) once\nand again (token)"
    assert not target.closed


@pytest.mark.parametrize("secret", [HUB, KEY, "https://ann:pass@proxy/x", "of several words, as said"])
def test_a_flush_between_two_pieces_shows_neither(secret: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_TOKEN", KEY)
    monkeypatch.setenv("MY_PASSWORD", "of several words, as said")
    for cut in range(1, len(secret)):
        target = io.StringIO()
        stream = RedactedStream(target)
        for piece in ("by ", secret[:cut], secret[cut:], " and more"):
            stream.write(piece)
            stream.flush()
        stream.close()
        assert target.getvalue() == f"by {redacted(secret)} and more"
        assert redacted(secret) != secret


def test_what_a_thread_flushes_stays_before_what_another_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    target = io.StringIO()
    stream = RedactedStream(target)
    stream.write("half ")
    other = Thread(target=stream.write, args=("whole\n",))

    def meanwhile(text: str, secrets: Collection[str]) -> str:
        if text == "half ":
            other.start()
            # It cannot end: it waits for what is flushed.
            other.join(0.1)
        return text

    monkeypatch.setattr(redaction, "redacted", meanwhile)
    stream.flush()
    other.join()
    assert target.getvalue() == "half whole\n"


def test_what_a_library_logs_shows_none_wherever_it_goes(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    before = logging.getLogRecordFactory()
    try:
        redact_log_records()
        logging.getLogger("library").warning("asked %s with %s", "http://ann:password@host/api", {"token": HUB})
        logging.getLogger("library").warning("100 %")
    finally:
        logging.setLogRecordFactory(before)
    assert [record.getMessage() for record in caplog.records] == [
        "asked http://(token)@host/api with {'token': '(token)'}", "100 %",
    ]  # fmt: skip


def test_the_libraries_log_shows_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    log = tmp_path / "libraries.log"
    with quiet_libraries(log):
        print(f"printed {KEY}")
        logging.getLogger("library").warning("logged %s", HUB)
        warnings.warn(f"warned {KEY}", stacklevel=1)
    text = log.read_text()
    assert all(f"{word} (token)" in text for word in ("printed", "logged", "warned"))
    assert KEY not in text and HUB not in text
