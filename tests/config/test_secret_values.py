"""Values that are tokens → their keys; values that only resemble one → nothing."""

import pytest

from gptoss_ft.config.secret_values import secret_keys

TOKEN = "hf_" + "K4" * 17
KEY = "c0ffee12" * 5


def test_tokens_are_found_wherever_they_stand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    values = {
        "model": {"name": "ann/model", "revision": "c" * 40},
        "dataset": [{"path": "a"}, {"path": f"b-{TOKEN}", "rename_columns": {TOKEN: "text"}}],
        "tracking": {"project": KEY},
        "evaluation": {"prompts": ["Hi", f"my token is {TOKEN}"]},
    }
    assert list(secret_keys(values)) == [
        "dataset[1].path", "dataset[1].rename_columns", "tracking.project", "evaluation.prompts[1]"
    ]  # fmt: skip


def test_a_password_that_is_a_word_is_no_reason_to_refuse_the_word(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DB_PASSWORD", "postgres")
    assert list(secret_keys({"dataset": {"path": "data/postgres.jsonl"}})) == []
