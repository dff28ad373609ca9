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


@pytest.mark.parametrize(
    "value",
    [
        "hf_" + "aBcDeFgH" * 4 + "iJ",
        "Use api_org_" + "aBcDeFgH" * 4 + "iJ, please",
        "ghp_" + "a1B2c3" * 6,
        "github_pat_" + "A1b2" * 5 + "C3_" + "d4E5" * 14 + "f6G",
        "glpat-" + "a1B2_" * 4,
        "xoxb-123456789012-1234567890123-" + "a1B2" * 6,
        "sk-proj-" + "a1B2" * 10,
        "sk-ant-api03-" + "a1_B" * 24,
        "sk-" + "a1B2" * 12,
        "AKIA" + "Q3EG" * 4,
        "https://ann:pass@proxy.example:8080/rows.jsonl",
        "s3://ann:pass@bucket/rows",
    ],
)
def test_what_is_given_out_as_a_token_is_refused(value: str) -> None:
    assert list(secret_keys({"evaluation": {"prompts": ["Hi", value]}})) == ["evaluation.prompts[1]"]


@pytest.mark.parametrize(
    "value",
    [
        "Why does password=hunter2 not belong in a URL such as https://ann:pass@host/x?",
        "Set HF_TOKEN=hf_xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx and go on",
        "Set HF_TOKEN=hf_YOURTOKENYOURTOKENYOURTOKENYOURTO and go on",
        "aws_access_key_id = AKIAIOSFODNN7EXAMPLE",
        "Write api_key: sk-your-key-here-0123456789 into .env",
        "What is new in sk-learn-pipelines-for-python-3.11?",
        "github_pat_tokens_2024_are_fine_grained_ones",
        "ssh://git@example.com/ann/rows.jsonl",
        "https://huggingface.co/datasets/ann/rows@main",
        "hf_hub_download and ghp_ are names",
        "c0ffee12" * 8,
    ],
)
def test_text_that_speaks_of_tokens_is_text(value: str) -> None:
    assert list(secret_keys({"evaluation": {"prompts": [value]}, "model": {"name": value}})) == []
