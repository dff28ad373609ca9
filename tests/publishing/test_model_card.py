"""The model card: what it says of a run, that the hub takes its header, that its code runs, and users' templates."""

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from hub_server import HubServer, hub_server
from huggingface_hub import ModelCard, constants, metadata_load, set_client_factory
from huggingface_hub.utils._http import default_client_factory
from safetensors.numpy import save_file

from gptoss_ft import job as story
from gptoss_ft.config import DatasetSection, EvaluationSection, JobConfig, load_job_config
from gptoss_ft.errors import ExitCode, SettingError
from gptoss_ft.publishing import licences
from gptoss_ft.publishing.card_template import fenced
from gptoss_ft.publishing.model_card import check_card, kind_of, render_card, write_card
from gptoss_ft.publishing.public_job import hub_id, public_job
from gptoss_ft.publishing.run_facts import RunFacts, read_facts, write_source
from gptoss_ft.publishing.sample_facts import sample_facts

TOKEN = "hf_" + "Q7" * 17
JOB = {
    "model": {"name": "openai/gpt-oss-20b"},
    "dataset": [
        {"path": "HuggingFaceH4/Multilingual-Thinking"},
        {"path": "/home/ann/notes/rows.jsonl", "eval": True},
    ],
    "evaluation": {"prompts": ["Why?"], "system": f"My token is {TOKEN}."},
    "hub": {"tags": ["education", "korean", "lora"]},
}


def make_job(**sections: dict[str, Any]) -> JobConfig:
    content: dict[str, Any] = {
        name: dict(section) if isinstance(section, dict) else section for name, section in JOB.items()
    }
    for name, section in sections.items():
        content[name] = {**content.get(name, {}), **section}
    return JobConfig.model_validate(content)


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    """What a run of 30 steps on a GPU leaves for its card; its final_model as Unsloth and PEFT would find it."""
    run = tmp_path / "run"
    final = run / "final_model"
    final.mkdir(parents=True)
    source = {"rows": 1000, "kept": 990}
    manifest = {
        "status": "finished",
        "config": make_job().model_dump(mode="json"),
        "data": {
            "rows": 1010,
            "sources": [
                {**source, "fingerprint": "HuggingFaceH4/Multilingual-Thinking:None:train:ab"},
                {"rows": 10, "kept": 10, "fingerprint": "cd"},
            ],
            "train": {"samples": 990, "tokens": 500_000, "trained_tokens": 200_000},
            "eval": {"samples": 10},
        },
        "model": {
            "repository": "unsloth/gpt-oss-20b-unsloth-bnb-4bit", "commit": "0123abc", "total": 20_914_757_184,
            "trainable": 15_040_512, "expert": 11_059_200, "in_4bit": True,
        },
        "versions": {"python": "3.11.9", "torch": "2.11.0", "unsloth": "2026.10.9", "pydantic": "2"},
        "code": {"gptoss_ft": "0.4.0", "commit": "beef"},
    }  # fmt: skip
    memory = {
        "device": "NVIDIA L4", "total_gib": 22.2, "peak_gib": 13.25, "before_training_gib": 11.8, "run_minutes": 12.3,
    }  # fmt: skip
    loss = {"tokens": 4000, "loss": 1.25, "perplexity": 3.49, "base_loss": 2.5, "base_perplexity": 12.18}
    evaluation = {
        "model": "final_model", "split": "eval", "samples": 10, "total": loss,
        "channels": {"analysis": {**loss, "tokens": 3000}, "final": {**loss, "tokens": 1000, "loss": 0.75}},
    }  # fmt: skip
    answers = [
        {"when": when, "prompt": "Why?", "effort": "low", "analysis": None, "answer": answer}
        for when, answer in (("before", "Because."), ("after", "A list:\n```\nx\n```"))
    ]
    records = [{"step": step, "loss": 3 - step / 20, "learning_rate": 2e-4} for step in range(1, 31)]
    (run / "manifest.json").write_text(json.dumps(manifest))
    (run / "memory_report.json").write_text(json.dumps(memory))
    (run / "evaluation.json").write_text(json.dumps(evaluation))
    (run / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in answers))
    lines = [
        *map(json.dumps, records),
        json.dumps({"step": 10, "eval_loss": 1.5, "eval_tokens": 9}),
        '{"step": 31, "lo',
    ]
    (run / "log.jsonl").write_text("\n".join(lines))
    (final / "chat_template.jinja").write_text("{{ reasoning_effort }}")
    (final / "adapter_config.json").write_text(
        json.dumps({"base_model_name_or_path": "openai/gpt-oss-20b", "target_parameters": ["mlp.experts.down_proj"]})
    )
    save_file({"x": np.zeros(250_000, np.float32)}, final / "adapter_model.safetensors")
    return run


def card_of(run: Path, job: JobConfig, model: str = "final_model", repo_id: str | None = None) -> ModelCard:
    folder = run / model
    return ModelCard(render_card(folder, read_facts(folder), job, kind_of(folder), repo_id))


def test_the_card_tells_of_the_run(run_folder: Path) -> None:
    text = card_of(run_folder, make_job(), repo_id="ann/tutor-lora").text
    for words in (
        "# tutor-lora\n\nA LoRA adapter for [openai/gpt-oss-20b](https://huggingface.co/openai/gpt-oss-20b)",
        'PeftModel.from_pretrained(base, "ann/tutor-lora")',
        "Mxfp4Config(dequantize=True)",
        'reasoning_effort="medium",  # low, medium or high',
        'bash train.sh generate --model ann/tutor-lora --prompt "Hello!" --reasoning-effort medium',
        "15,040,512 of 20,914,757,184 parameters were trained (0.07 %), 11,059,200 of them in experts.",
        "LoRA of rank 8, alpha 16, on q_proj, k_proj,",
        "4 bits (QLoRA), loaded from `unsloth/gpt-oss-20b-unsloth-bnb-4bit`, commit `0123abc`.",
        "30 steps of 1 × 4 samples, at most 1,024 tokens each",
        "| [HuggingFaceH4/Multilingual-Thinking](https://huggingface.co/datasets/HuggingFaceH4/Multilingual-Thinking), "
        "train | see its page | 990 | training |",
        "| `rows.jsonl` (local), train | not stated | 10 | evaluation |",
        "990 samples with 500,000 tokens, of which 200,000 were trained; 10 samples were held out.",
        "2.9500 at step 1, 1.5000 at step 30.",
        "| 30 | 1.5000 | 2.00e-04 |",
        "| all that count | 4,000 | 2.5000 | 1.2500 | 3.49 |",
        "| final | 1,000 | 2.5000 | 0.7500 | 3.49 |",
        "**Why?** (reasoning effort low)\n\nBefore:\n\n```text\nBecause.\n```\n\n"
        "After:\n\n````text\nA list:\n```\nx\n```\n````",
        "13.25 GiB at its peak on one NVIDIA L4 (22.2 GiB), 11.80 GiB of them before the first step, and 12.3 minutes.",
        "These files take 1.0 MB on the disk, the base model its own.",
        "Made with python 3.11.9, torch 2.11.0, unsloth 2026.10.9, gptoss_ft 0.4.0.",
        "It was trained for 30 steps only",
        "`apache-2.0`. The terms of the base model",
    ):
        assert words in text
    assert len(re.findall(r"^\| \d+ \| \d\.\d{4} \|", text, re.MULTILINE)) == 12
    assert "not measured" not in text


def test_the_card_holds_no_path_and_no_token(run_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "a-token-of-no-known-form")
    job = make_job(
        model={"name": "/home/ann/models/llama", "adapter": "~/ann/first", "chat_template": "/home/ann/my.jinja"},
        evaluation={"system": f"{TOKEN} and a-token-of-no-known-form"},
    )
    (run_folder / "final_model" / "adapter_config.json").write_text(
        '{"base_model_name_or_path": "/home/ann/models/llama"}'
    )
    card = str(card_of(run_folder, job))
    assert "/home" not in card
    assert "/ann/" not in card
    assert TOKEN not in card
    assert "a-token-of-no-known-form" not in card
    assert "system: (token) and (token)" in card
    for shown in ("name: llama", "adapter: first", "chat_template: my.jinja", "path: rows.jsonl"):
        assert shown in card
    assert ModelCard(card).data.base_model is None


def test_the_config_in_the_card_is_a_config(run_folder: Path, tmp_path: Path) -> None:
    job = make_job(evaluation={"system": None})
    yaml = re.search("```yaml\n(.*?)```", card_of(run_folder, job).text, re.DOTALL)
    assert yaml is not None
    (tmp_path / "config.yaml").write_text(yaml[1])
    assert load_job_config(tmp_path / "config.yaml").job == public_job(job)


KINDS = ["final_model", "merged_model", "older"]


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with hub_server() as server:
        yield server


@pytest.fixture
def redirected(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What the client sends to huggingface.co, whose address `ModelCard.validate` holds, goes to `hub`."""

    class Redirect(httpx.HTTPTransport):
        def handle_request(self, request: httpx.Request) -> httpx.Response:
            request.url = httpx.URL(hub.address).copy_with(path=request.url.path)
            return super().handle_request(request)

    set_client_factory(lambda: httpx.Client(transport=Redirect()))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    licences.licence_on_hub.cache_clear()
    yield
    licences.licence_on_hub.cache_clear()
    set_client_factory(default_client_factory)


@pytest.mark.parametrize("language", ["en", "ko"])
@pytest.mark.parametrize("model", KINDS)
def test_the_hub_takes_the_header(
    run_folder: Path, hub: HubServer, redirected: None, model: str, language: str
) -> None:
    folder = run_folder / model if model != "older" else run_folder.parent / "older"
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text("{}")
    facts, kind = read_facts(folder), kind_of(folder)
    write_card(folder, facts, make_job(hub={"card_language": language}), kind)
    card = ModelCard.load(folder / "README.md")
    card.validate()
    assert len(hub.asked("POST", "/api/validate-yaml")) == 1
    header = metadata_load(folder / "README.md")
    assert header == card.data.to_dict()
    assert header["base_model"] == "openai/gpt-oss-20b"
    assert header["datasets"] == ["HuggingFaceH4/Multilingual-Thinking"]
    assert header["license"] == "apache-2.0"
    assert header["pipeline_tag"] == "text-generation"
    own = ["gptoss_ft", "unsloth", "trl", "sft", "text-generation"]
    if kind == "adapter":
        assert (header["library_name"], header["base_model_relation"]) == ("peft", "adapter")
        assert header["tags"] == ["lora", "peft", *own, "education", "korean"]
    else:
        assert (header["library_name"], header["base_model_relation"]) == ("transformers", "finetune")
        assert header["tags"] == [*own, "education", "korean", "lora"]
    if model == "older":
        assert facts == RunFacts()


def test_licences_are_asked_of_the_hub(run_folder: Path, hub: HubServer, redirected: None) -> None:
    hub.licences |= {"openai/gpt-oss-20b": "mit", "HuggingFaceH4/Multilingual-Thinking": "cc-by-4.0"}
    card = card_of(run_folder, make_job())
    assert card.data.license == "mit"
    assert ", train | cc-by-4.0 | 990 | training |" in card.text
    assert card_of(run_folder, make_job(hub={"license": "other"})).data.license == "other"


@pytest.mark.parametrize(
    ("model", "licence"),
    [
        ("unsloth/gpt-oss-120b", "apache-2.0"),
        ("unsloth/Llama-3.2-3B-Instruct", "llama3.2"),
        ("meta-llama/Meta-Llama-3.1-8B", "llama3.1"),
        ("HuggingFaceTB/SmolLM2-135M-Instruct", "apache-2.0"),
        ("ann/gpt-oss-20b-tuned", None),
    ],
)
def test_licences_that_are_known_without_the_hub(model: str, licence: str | None) -> None:
    licences.licence_on_hub.cache_clear()
    assert licences.licence_of_model(model) == licence


def test_the_cards_of_both_languages_hold_the_same_figures(run_folder: Path) -> None:
    english, korean = (
        card_of(run_folder, make_job(hub={"card_language": language}), repo_id="ann/x").text
        for language in ("en", "ko")
    )
    headings = re.findall("^## .*", korean, re.MULTILINE)
    assert headings == [
        "## 사용 방법", "## 학습", "## 결과", "## 학습 전후의 답변", "## 시스템 요구 사항", "## 한계", "## 라이선스",
    ]  # fmt: skip
    assert len(re.findall("^## .*", english, re.MULTILINE)) == len(headings)
    prose = [text.partition("<details>")[0] for text in (english, korean)]
    figures = [sorted(re.findall(r"\d[\d,.]*\d|\d", text)) for text in prose]
    assert [figure for figure in figures[0] if figure not in figures[1]] == []
    code = [re.findall("```(?:python|bash)\n(.*?)```", text, re.DOTALL) for text in (english, korean)]
    plain = [[re.sub("  #.*|Hello!|안녕하세요!", "", block) for block in blocks] for blocks in code]
    assert plain[0] == plain[1]
    assert len(plain[0]) == 3


def test_experts_one_by_one_are_not_said_to_load_in_peft(run_folder: Path) -> None:
    checkpoint = run_folder / "checkpoint-10"
    checkpoint.mkdir()
    (checkpoint / "adapter_config.json").write_text('{"base_model_name_or_path": "/cache/x"}')
    name = "base_model.model.model.layers.0.mlp.experts.gate_up_projs.3.lora_A.weight"
    save_file({name: np.zeros((2, 4), np.float32)}, checkpoint / "adapter_model.safetensors")
    text = card_of(run_folder, make_job(), "checkpoint-10").text
    assert "from peft" not in text
    assert "export --format portable-adapter" in text
    assert "from unsloth import FastLanguageModel" in text
    # Of a checkpoint only what was known at its step.
    assert "10 steps of" in text
    assert "2.5000 at step 10." in text
    assert "Before:" not in text
    assert "not measured" in text


@pytest.mark.parametrize("name", ["merged_model", "portable_adapter"])
def test_what_was_made_of_a_checkpoint_has_its_facts(run_folder: Path, name: str) -> None:
    folder = run_folder / name
    folder.mkdir()
    write_source(folder, run_folder / "final_model")
    assert read_facts(folder) == read_facts(run_folder)
    write_source(folder, run_folder / "checkpoint-10")
    assert json.loads((folder / "source.json").read_text()) == {"adapter": "checkpoint-10"}
    facts = read_facts(folder)
    assert facts == read_facts(run_folder / "checkpoint-10")
    assert (facts.records[-1]["step"], facts.evaluation, facts.answers) == (10, None, ())


MERGED = {
    "en": ("folded into its weights (float32); trained", "not trained on, measured with the adapter before merging:",
           "| tokens | number | base model | adapter | perplexity |", "asked before merging."),
    "ko": ("병합한 모델(float32)입니다.", "손실(학습 전후), 병합하기 전의 어댑터로 측정:",
           "| 토큰 | 개수 | 기반 모델 | 어댑터 | 퍼플렉시티 |", "병합하기 전의 어댑터로 얻은 것입니다."),
}  # fmt: skip


@pytest.mark.parametrize("language", MERGED)
def test_a_merged_models_card_does_not_claim_the_adapters_figures(run_folder: Path, language: str) -> None:
    (run_folder / "merged_model").mkdir()
    (run_folder / "merged_model" / "config.json").write_text('{"dtype": "float32"}')
    job = make_job(hub={"card_language": language})
    merged, adapter = (card_of(run_folder, job, model).text for model in ("merged_model", "final_model"))
    for words in MERGED[language]:
        assert words in merged
        assert words not in adapter


@pytest.mark.parametrize(("language", "heading"), [("en", "## Results"), ("ko", "## 결과")])
def test_an_evaluation_has_its_heading_without_losses(run_folder: Path, language: str, heading: str) -> None:
    (run_folder / "log.jsonl").unlink()
    text = card_of(run_folder, make_job(hub={"card_language": language})).text
    assert text.index(heading) < text.index("| 4,000 | 2.5000 | 1.2500 | 3.49 |")


@pytest.mark.parametrize(("language", "nothing"), [("en", "(no answer)"), ("ko", "(답변 없음)")])
def test_an_answer_that_is_a_call_is_shown(run_folder: Path, language: str, nothing: str) -> None:
    row = {"prompt": "Weather?", "effort": "low", "analysis": "I look.", "tokens": 9, "stop": "call"}
    call = {"name": "functions.weather", "arguments": '{"city": "Seoul"}'}
    rows = [
        {"when": "before", **row, "answer": None, "calls": [call]},
        {"when": "after", **row, "answer": "One moment.", "calls": [call]},
        {"when": "before", **row, "prompt": "Else?", "analysis": None, "answer": None, "calls": []},
        {"when": "after", **row, "prompt": "Else?", "answer": None, "calls": [], "unread": "<|channel|>a"},
    ]
    (run_folder / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = card_of(run_folder, make_job(hub={"card_language": language})).text
    shown = 'functions.weather({"city": "Seoul"})'
    assert f"```text\n{shown}\n```" in text
    assert f"```text\nOne moment.\n{shown}\n```" in text
    # What is not in the model's format is shown here as it is on the screen.
    assert "```text\n<|channel|>a\n```" in text
    assert text.count(nothing) == 1


@pytest.mark.parametrize(("language", "words"), [("en", "2.9500 at step 1."), ("ko", "1 스텝에서 2.9500.")])
def test_a_single_step_is_told_once(run_folder: Path, language: str, words: str) -> None:
    (run_folder / "log.jsonl").write_text('{"step": 1, "loss": 2.95, "learning_rate": 0.1}')
    text = card_of(run_folder, make_job(hub={"card_language": language})).text
    assert words in text
    assert ("- 1 step of" in text) == (language == "en")


def test_facts_that_cannot_be_read_count_as_missing(run_folder: Path) -> None:
    for name in ("manifest.json", "memory_report.json", "evaluation.json", "samples.jsonl", "log.jsonl"):
        (run_folder / name).write_text('{"half": ')
    assert read_facts(run_folder / "final_model") == RunFacts(records=[], answers=[])
    text = card_of(run_folder, make_job()).text
    assert "- Steps of 1 × 4 samples" in text
    assert "## Results" not in text


def test_the_cards_code_runs_without_unsloth(
    tmp_path: Path, tiny_gpt_oss: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = """
model: {name: tiny/gpt-oss, max_seq_length: 256, load_in_4bit: false, dtype: float32, device: cpu}
dataset: {path: tiny/multilingual-thinking, max_samples: 8, eval_fraction: 0.25}
training: {max_steps: 2, optim: adamw_torch_fused, output_dir: run}
evaluation: {prompts: [Why?], reasoning_efforts: [low], max_new_tokens: 2}
tracking: {report_to: none}
"""
    Path("job.yaml").write_text(config)
    result = story.train(load_job_config(Path("job.yaml")))
    text = (result.final_model / "README.md").read_text(encoding="utf-8")
    assert f"| 2 | {result.losses[-1]:.4f} |" in text
    # What templates are tried on before training has all that they are given after it.
    real, tried = read_facts(result.final_model), sample_facts(load_job_config(Path("job.yaml")).job)
    assert real.manifest and tried.manifest
    for name in ("model", "code", "versions"):
        assert tried.manifest[name].keys() == real.manifest[name].keys()
    assert tried.manifest["data"]["train"].keys() == real.manifest["data"]["train"].keys()
    assert real.memory and tried.memory and tried.memory.keys() == real.memory.keys()
    assert real.evaluation and tried.evaluation and tried.evaluation.keys() == real.evaluation.keys()
    assert tried.evaluation["total"].keys() == real.evaluation["total"].keys()
    assert tried.records[0].keys() == real.records[0].keys()
    assert real.answers[0].keys() - {"unread", "commentary"} == tried.answers[0].keys()

    load, ask = re.findall("```python\n(.*?)```", text, re.DOTALL)
    assert 'from_pretrained("outputs/run/final_model")' in text
    assert "generate --model outputs/run/final_model --prompt" in text
    code = load + ask
    code = code.replace('"tiny/gpt-oss"', repr(str(tiny_gpt_oss))).replace("max_new_tokens=512", "max_new_tokens=4")
    blocked = "import sys; sys.modules['unsloth'] = sys.modules['unsloth_zoo'] = None\n"
    done = subprocess.run(
        [sys.executable, "-c", f"{blocked}{code}\nprint('tokens', tokens.shape[1] - inputs['input_ids'].shape[1])"],
        capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert re.search(r"tokens [1-4]$", done.stdout.strip())


Template = Callable[[str], JobConfig]


@pytest.fixture
def with_template(tmp_path: Path) -> Template:
    def write(text: str) -> JobConfig:
        (tmp_path / "my.md").write_text(text, encoding="utf-8")
        return make_job(hub={"card_template": str(tmp_path / "my.md")})

    return write


def test_a_template_of_the_users(with_template: Template) -> None:
    job = with_template("# {{ base.name }}\n{% for set in data_sets %}- {{ set.name }}\n{% endfor %}\n{{ lora.r }}")
    card = ModelCard(render_card(Path("final_model"), RunFacts(), job, "adapter"))
    assert card.text.strip() == "# openai/gpt-oss-20b\n- HuggingFaceH4/Multilingual-Thinking\n- rows.jsonl\n8"
    assert card.data.library_name == "peft"


def test_a_template_that_replaces_one_block_of_ours(with_template: Template) -> None:
    job = with_template('{% extends "card.ko.md.jinja" %}{% block limits %}## 주의\n\n없음\n{% endblock %}')
    text = render_card(Path("final_model"), RunFacts(), job, "adapter")
    assert "## 주의\n\n없음" in text
    assert "## 한계" not in text
    assert "## 라이선스" in text


BROKEN = {
    "syntax": ("# x\n\n{% if %}\n", "line 3: Expected an expression"),
    "misspelt": ("# x\n{{ titel }}\n", "line 2: 'titel' is undefined"),
    "of a value": ("# x\n\n\n{{ lora.rank }}", "line 4: 'dict object' has no attribute 'rank'"),
    "arithmetic": ("{{ 1 / 0 }}", "line 1: division by zero"),
    "forbidden": ("x\n{{ ''.__class__.__mro__ }}", "line 2: access to attribute '__class__'"),
    "misspelt in a branch": ("x\n{% if kind == 'other' %}\n{{ titel }}\n{% endif %}", "line 3: 'titel' is undefined"),
    "misspelt in a block of ours": (
        '{% extends "card.en.md.jinja" %}\n{% block answers %}{% if answers|length > 9 %}{{ title }}\n{{ anwsers }}'
        "{% endif %}{% endblock %}",
        "line 3: 'anwsers' is undefined",
    ),
    "of what a run knows": (
        "{% if losses %}\n{{ losses[0].los }}{% endif %}",
        "line 2: 'dict object' has no attribute 'los'",
    ),
    "of a merged model": ("{% if kind == 'merged' %}\n\n{{ base.nmae }}{% endif %}", "line 3: 'dict object' has no"),
    "of a block that nothing has": (
        '{% extends "card.en.md.jinja" %}\n{% block limit %}mine{% endblock %}',
        "line 2: card.en.md.jinja has no block limit to replace; did you mean limits?",
    ),
    "of no file": ('{% include "nope.md" %}', "there is no template nope.md"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_template_with_a_mistake(with_template: Template, case: str) -> None:
    text, message = BROKEN[case]
    job = with_template(text)
    with pytest.raises(SettingError, match=r"my\.md") as caught:
        check_card(job)
    assert message in caught.value.message
    assert (caught.value.key, caught.value.exit_code) == ("hub.card_template", ExitCode.CONFIG)


def test_a_template_may_set_names_of_its_own(with_template: Template, tmp_path: Path) -> None:
    (tmp_path / "parts.md").write_text("{% macro shout(words) %}{{ words|upper }}{{ caller() }}{% endmacro %}")
    text = """{% extends "card.en.md.jinja" %}
{% from "parts.md" import shout as loud %}{% import "parts.md" as parts %}
{% set who %}ann{% endset %}{% set team, lead = "lab", "bo" %}{% macro sign(name) %}-- {{ name }}{% endmacro %}
{% block limits %}{{ super() }}{% if kind %}{% set more = 1 %}{% endif %}
{% for set in data_sets %}{{ loop.index }}{{ set.name }}{% endfor %}
{% call loud("a") %}!{% endcall %}{{ sign(who) }} {{ team }} {{ lead }} {{ more }} {{ parts }}
{% include "nope.md" ignore missing %}{% with x = 1 %}{{ x }}{% endwith %}{{ range(3)|list }}{{ self.licence() }}
{% endblock %}"""
    job = with_template(text)
    check_card(job)
    assert "A!-- ann lab bo 1" in render_card(Path("final_model"), RunFacts(), job, "adapter")


def test_what_a_run_will_know_a_template_may_use_without_asking(with_template: Template) -> None:
    text = (
        "{{ steps + 1 }} {{ losses[0].loss }} {{ parameters.total|number }} {{ memory.peak_gib|number }} "
        "{{ data.train.tokens }} {{ versions.torch }} {{ code.commit }}"
        "{% if kind == 'merged' %}{{ dtype|upper|length / dtype|length }}{% endif %}"
        "{% for set in data_sets %}{{ set.kept|number }}{% endfor %}"
    )
    check_card(with_template(f"{text} {{{{ evaluation.samples|number }}}} {{{{ answers[0].after.text|upper }}}}"))
    # Of this job nothing is held out, and nothing asked.
    job = with_template(text).model_copy(update={"dataset": DatasetSection(path="ann/x")})
    job = job.model_copy(update={"evaluation": EvaluationSection()})
    check_card(job)
    for asked in ("{{ evaluation.samples }}", "{{ answers[0].prompt }}"):
        own = {"dataset": job.dataset, "evaluation": job.evaluation}
        with pytest.raises(SettingError, match=r"my\.md, line 1: "):
            check_card(with_template(asked).model_copy(update=own))


def test_a_template_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"there is no template nope\.md"):
        check_card(make_job(hub={"card_template": "nope.md"}))
    (tmp_path / "latin.md").write_bytes("ä".encode("latin-1"))
    with pytest.raises(SettingError, match=r"latin\.md: it is not UTF-8 text"):
        check_card(make_job(hub={"card_template": str(tmp_path / "latin.md")}))


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("openai/gpt-oss-20b", "openai/gpt-oss-20b"),
        ("tiny/gpt-oss", None),
        ("data/rows.jsonl", None),
        ("./model", None),
        ("~/model", None),
        ("/data/model", None),
        ("a/b/c", None),
        ("model", None),
        ("a b/c", None),
    ],
)
def test_what_can_be_on_the_hub(name: str, found: str | None) -> None:
    assert hub_id(name) == found


def test_a_folder_that_is_named_like_a_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert hub_id("data/rows") == "data/rows"
    Path("data/rows").mkdir(parents=True)
    assert hub_id("data/rows") is None


def test_a_fence_is_longer_than_what_it_holds() -> None:
    assert fenced("a") == "```\na\n```"
    assert fenced("`````", "text") == "``````text\n`````\n``````"
