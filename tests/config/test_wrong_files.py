"""Files that are no config → exact lines."""

from pathlib import Path

import pytest
from config_files import CONFIG, SECTIONS, STEPS_OR_EPOCHS, errors, load

from gptoss_ft.config import DatasetSection, load_job_config
from gptoss_ft.errors import ConfigError

pytestmark = pytest.mark.usefixtures("empty_folder")

HUB_KEYS = "the keys of hub are repo_id, private, push, tags, card_language, card_template, license"
FILES: dict[str | bytes, list[str]] = {
    "": ["1:1: empty; write at least one section, or {} for a job of defaults"],
    "# nothing\n": ["1:1: empty; write at least one section, or {} for a job of defaults"],
    "- a\n": [f'1:1: read ["a"]; wanted the sections {SECTIONS}, each with keys below'],
    "gpt\n": [f'1:1: read "gpt"; wanted the sections {SECTIONS}, each with keys below'],
    "model: gpt\n": ['1:8: model: read "gpt"; wanted keys below it, such as name'],
    "lora:\n- r\n": ['2:1: lora: read ["r"]; wanted keys below it, such as r'],
    "max_steps: 3\n": ["1:1: max_steps: unknown key; did you mean training.max_steps?"],
    "trainign:\n  max_steps: 3\n": ["1:1: trainign: unknown key; did you mean training?"],
    "extra: 1\n": [f"1:1: extra: unknown key; the sections are {SECTIONS}"],
    "model.name: x\n": ["1:1: model.name: unknown key; did you mean name: in the section model:?"],
    "lora:\n  rank: 1\n": ["2:3: lora.rank: unknown key; did you mean lora.r?"],
    "lora:\n  max_steps: 1\n": ["2:3: lora.max_steps: unknown key; did you mean training.max_steps?"],
    "lora:\n  lora_alpha: 1\n": ["2:3: lora.lora_alpha: unknown key; did you mean lora.alpha?"],
    "lora:\n  hub:\n    push: true\n": [
        "2:3: lora.hub: unknown key; did you mean the section hub: at the start of a line?"
    ],
    "hub:\n  zzz: 1\n": ["2:3: hub.zzz: unknown key; " + HUB_KEYS],
    "hub:\n  token: hf_abcdefgh\n": [
        "2:3: hub.token: unknown key; secrets have no place in a config: "
        "set HF_TOKEN or WANDB_API_KEY in the environment"
    ],
    "dataset:\n  api_key: x\n": [
        "2:3: dataset.api_key: unknown key; secrets have no place in a config: "
        "set HF_TOKEN or WANDB_API_KEY in the environment"
    ],
    "dataset:\n  role_keys: x\n": ["2:3: dataset.role_keys: unknown key; did you mean dataset.role_key?"],
    "dataset:\n  rename_columns: {a: 3, ' b': c}\n": [
        "2:23: dataset.rename_columns.a: read 3; wanted text; quotes make it text",
        '2:32: dataset.rename_columns. b: read " b" as a name; wanted text; on one line, with no space around it',
    ],
    "dataset: {eval: true, eval_fraction: 0.5}\n": [
        "1:38: dataset.eval_fraction: read 0.5; wanted 0, because eval: true already uses every row for evaluation"
    ],
    "datasets:\n- path: a\n": ["1:1: datasets: unknown key; did you mean dataset?"],
    "dataset[0].path: x\n": ["1:1: dataset[0].path: unknown key; did you mean path: in the section dataset:?"],
    "lora: {target_modules: [*x, 4]}\n": [
        "1:25: lora.target_modules[0]: *x refers to nothing: no &x above it",
        "1:29: lora.target_modules[1]: read 4; wanted text; quotes make it text",
    ],
    "hub:\n  hf_abcdefgh: 1\n": ["2:3: hub.***: unknown key; " + HUB_KEYS],
    "lora:\n  r: 1\n  alpha: 2\n  r: 3\n": ["4:3: lora.r: written twice; first at config.yaml:2:3"],
    "lora: {}\nmodel: {}\nlora: {}\n": ["3:1: lora: written twice; first at config.yaml:1:1"],
    "lora:\n  target_modules: [a, 5, null]\n": [
        "2:23: lora.target_modules[1]: read 5; wanted text; quotes make it text",
        "2:26: lora.target_modules[2]: read null; wanted text",
    ],
    "training:\n  lr_scheduler_type: cosine\n  lr_scheduler_kwargs:\n    num_cycles: [1]\n": [
        "4:17: training.lr_scheduler_kwargs.num_cycles: read [1]; wanted a whole number, or a number, or text"
    ],
    "training:\n  lr_scheduler_kwargs: {float: {float: 1}}\n": [
        "2:32: training.lr_scheduler_kwargs.float: read {float: 1}; wanted a whole number, or a number, or text",
    ],
    'training:\n  lr_scheduler_kwargs: {"\\ud800": 1}\n': [
        "2:24: training.lr_scheduler_kwargs: read {\\ud800: 1}; "
        "wanted {}, which is all that lr_scheduler_type linear takes"
    ],
    "training:\n  lr_scheduler_type: cosine_with_min_lr\n": [
        "1:1 (default): training.lr_scheduler_kwargs: read {}; "
        "wanted one of min_lr and min_lr_rate, which cosine_with_min_lr ends at"
    ],
    "training:\n  num_train_epochs: 3\n  max_steps: 4\n": [
        f"3:14: training.max_steps: read 4; {STEPS_OR_EPOCHS} 3 at config.yaml:2:21; write null for one of them"
    ],
    "1: 2\nmodel: {{ name }}\n": [
        "1:1: read 1 as a key; wanted a name",
        "2:9: model: a list or mapping as a key; text that starts with { or [ needs quotes",
    ],
    "lora: &l\n  r: *l\n": ["2:6: lora.r: *l refers to what it is part of"],
    "lora: {r: &r 0, alpha: *r}\n": [
        "1:11: lora.r: read 0; wanted a whole number, 1 or more",
        "1:24: lora.alpha: read 0; wanted a whole number, 1 or more",
    ],
    "lora:\n  <<: {r: 0}\n": ["2:11: lora.r: read 0; wanted a whole number, 1 or more"],
    "lora:\n  <<: 5\n": ["2:7: lora: read << with 5; wanted a mapping or its alias"],
    "lora: !!set {r}\n": ["1:7: lora: the YAML tag !!set is not read; write the plain value, text in quotes",
                          "1:14: lora.r: read null; wanted a whole number, 1 or more"],
    "lora: {}\n---\nlora: {}\n": [
        "2:1: a second document starts here; one file is one job, so take out the `---`"
    ],
    "model:\n\tname: x\n": ["2:1: not YAML: a tab where YAML wants spaces; indent with spaces"],
    "lora:\n  r: 1\n   alpha: 2\n": [
        "3:9: not YAML: a `:` out of place; check the indentation, and quote text with `: ` in it"
    ],
    "lora:\n  r: 1\n alpha: 2\n": ["3:2: not YAML: the indentation does not fit the lines above"],
    "lora:\n  target_modules: [a,\n  r: 8\n": ["2:19: not YAML: a `,` or the closing `]` is missing"],
    "lora: {r: 8\n": ["1:7: not YAML: a `,` or the closing `}` is missing"],
    "model:\n  name: 'x\n  r: 1\n": ["2:9: not YAML: a quote that is never closed"],
    "model:\n  name: @x\n": ["2:9: not YAML: text that starts with @ needs quotes"],
    'model:\n  name: "C:\\models"\n': [
        "2:13: not YAML: an escape that YAML does not have; in single quotes a \\ is just a \\"
    ],
    'model:\n  name: "\\U00110000"\n': ["2:10: not YAML: an escape beyond U+10FFFF, where characters end"],
    b"model:\r\n  name: caf\xe9\r\n": ["2:12: not UTF-8 text: the byte 0xe9"],
    b"\xff\xfem\x00": ["1:1: not UTF-8 text: the byte 0xff"],
    b"model:\n  name: a\x00b\n": ["2:10: the character U+0000, which has no place in a text file"],
    b"\xef\xbb\xbflora:\r\n  r: 0\r\n": ["2:6: lora.r: read 0; wanted a whole number, 1 or more"],
    b"[" * 5000: ["1:21: lists or mappings more than 20 deep"],
    "a: &a [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
        f"{b}: &{b} [{','.join(['*' + a] * 10)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
    ): ["4:29: more than 10000 values, or as much text, with aliases written out"],
    "lora:\n  r: 0\n  alpah: 3\nmodel:\n  dtype: 1\n": [
        "2:6: lora.r: read 0; wanted a whole number, 1 or more",
        "3:3: lora.alpah: unknown key; did you mean lora.alpha?",
        "5:10: model.dtype: read 1; wanted auto, bfloat16, float16 or float32",
    ],
}  # fmt: skip


@pytest.mark.parametrize("text", list(FILES), ids=lambda text: repr(text)[:40])
def test_a_wrong_file(text: str | bytes) -> None:
    assert errors(text) == [f"config.yaml:{line}" for line in FILES[text]]


OR_A_LIST = "wanted keys below it, such as path, or a list of entries with such keys"
LISTS: dict[str, list[str]] = {
    "dataset: 3\n": [f"1:10: dataset: read 3; {OR_A_LIST}"],
    "dataset: []\n": [f"1:10: dataset: read []; {OR_A_LIST}"],
    "dataset: !!seq []\n": ["1:10: dataset: the YAML tag !!seq is not read; write the plain value, text in quotes"],
    "dataset: [3, [a], {}]\n": [
        "1:11: dataset[0]: read 3; wanted keys below it, such as path",
        '1:14: dataset[1]: read ["a"]; wanted keys below it, such as path',
    ],
    "dataset:\n-\n- path: a\n": ["2:2: dataset[0]: read null; wanted keys below it, such as path"],
    "dataset:\n- path: a\n- pth: b\n  sead: 1\n": [
        "3:3: dataset[1].pth: unknown key; did you mean dataset[1].path?",
        "4:3: dataset[1].sead: unknown key; did you mean training.seed?",
    ],
    "dataset:\n- val_set_size: 1\n  lora: {r: 8}\n  zzz: 1\n": [
        "2:3: dataset[0].val_set_size: unknown key; did you mean dataset[0].eval_fraction?",
        "3:3: dataset[0].lora: unknown key; did you mean the section lora: at the start of a line?",
        f"4:3: dataset[0].zzz: unknown key; the keys of dataset[0] are {', '.join(DatasetSection.model_fields)}",
    ],
    "dataset:\n- path: a\n- path: 3\n  format: Alpaca\n  prompt_date: 2025-02-30\n- max_samples: 0\n": [
        "3:9: dataset[1].path: read 3; wanted text; quotes make it text",
        '4:11: dataset[1].format: read "Alpaca"; wanted sharegpt, alpaca, prompt_completion or custom; '
        "did you mean alpaca?",
        '5:16: dataset[1].prompt_date: read "2025-02-30"; wanted a date of the calendar, as YYYY-MM-DD, or null',
        "6:16: dataset[2].max_samples: read 0; wanted a whole number, 1 or more, or null",
    ],
    "dataset:\n- path: a\n- path: b\n  path: c\n": ["4:3: dataset[1].path: written twice; first at config.yaml:3:3"],
    "dataset:\n- {}\n- rename_columns: {a: [b]}\n": ['3:23: dataset[1].rename_columns.a: read ["b"]; wanted text'],
    "dataset:\n- {}\n- token: x\n  split: [hf_abcdefgh]\n": [
        "3:3: dataset[1].token: unknown key; secrets have no place in a config: "
        "set HF_TOKEN or WANDB_API_KEY in the environment",
        '4:10: dataset[1].split: read ["***"]; wanted text',
    ],
    "dataset: [*x, {path: 2}]\n": [
        "1:11: dataset[0]: *x refers to nothing: no &x above it",
        "1:22: dataset[1].path: read 2; wanted text; quotes make it text",
    ],
    "dataset:\n- path: a\n- <<: 5\n- {[a]: b}\n": [
        "3:7: dataset[1]: read << with 5; wanted a mapping or its alias",
        "4:4: dataset[2]: a list or mapping as a key; text that starts with { or [ needs quotes",
    ],
    "dataset: &d [{path: *d}]\n": ["1:21: dataset[0].path: *d refers to what it is part of"],
    "dataset:\n- weight: 2\n- path: b\n- eval: true\n  weight: 1\n- path: c\n": [
        "3:3 (default): dataset[1].weight: read null; wanted a number above 0: dataset[0] has a weight, "
        "so each entry needs one",
        "5:11: dataset[2].weight: read 1; wanted null: a weight is a share of the training rows, "
        "and eval: true has none",
    ],
    "dataset: [{prepared: a}, {}, {prepared: b}]\n": [
        '1:22: dataset[0].prepared: read "a"; wanted null in a list: prepared data stands alone',
        '1:41: dataset[2].prepared: read "b"; wanted null in a list: prepared data stands alone',
    ],
    "lora: {r: 0}\ndataset: [{path: [a]}]\n": [
        "1:11: lora.r: read 0; wanted a whole number, 1 or more",
        '2:18: dataset[0].path: read ["a"]; wanted text',
    ],
}  # fmt: skip


@pytest.mark.parametrize("text", list(LISTS))
def test_a_wrong_list(text: str) -> None:
    assert errors(text) == [f"config.yaml:{line}" for line in LISTS[text]]


def test_of_many_mistakes_the_first_are_shown() -> None:
    with pytest.raises(ConfigError) as wrong:
        load("lora:\n" + "".join(f"  target_module{number}: 1\n" for number in range(4_900)))
    assert [problem.place for problem in wrong.value.problems] == [f"config.yaml:{line}:3" for line in range(2, 52)]
    assert wrong.value.cure == (
        "There are 4,850 more such mistakes. docs/configuration.md lists every key, what it takes and its default."
    )


def test_a_long_text_counts_as_often_as_its_alias_stands() -> None:
    # 9,000 of them would be 180 MB to look through, and to show.
    assert errors(f"long: &long {'x' * 20_000}\nlora: {{target_modules: [{'*long, ' * 9_000}]}}\n")[-1] == (
        "config.yaml:2:361: more than 10000 values, or as much text, with aliases written out"
    )


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('a: "\\U99999999"\n', "1:5: not YAML: an escape beyond U+10FFFF, where characters end"),
        (f"%YAML {'1' * 5_000}.1\n---\na: 1\n", "1:1: not YAML: a version of YAML that there is none of"),
        ("# job\n%YAML 1.3\n---\na: 1\n", "2:1: not YAML: a version of YAML that there is none of"),
    ],
)
def test_what_the_yaml_library_lets_through(text: str, problem: str) -> None:
    assert errors(text) == [f"config.yaml:{problem}"]


def test_files_that_cannot_be_read() -> None:
    Path("configs").mkdir()
    Path("configs/smoke.yaml").write_text("{}")
    with pytest.raises(ConfigError) as missing:
        load_job_config(Path("confg.yaml"))
    assert str(missing.value) == "confg.yaml: no such file"
    assert missing.value.cure == f"The current folder is {Path.cwd()}; it has configs/smoke.yaml."
    with pytest.raises(ConfigError, match=r"^configs: a folder; wanted a YAML file$"):
        load_job_config(Path("configs"))
    with pytest.raises(ConfigError, match="cannot be read: Not a directory"):
        load_job_config(Path("configs/smoke.yaml/x"))
    with pytest.raises(ConfigError, match="cannot be read: embedded null byte"):
        load_job_config(Path("a\0b"))
    with pytest.raises(ConfigError, match="larger than 256 KiB"):
        load("#" * 300_000)


def test_a_file_that_the_system_refuses_to_read() -> None:
    # A file that not even root can read from its beginning.
    CONFIG.symlink_to("/proc/self/mem")
    with pytest.raises(ConfigError, match=r"^config.yaml: cannot be read: Input/output error$"):
        load_job_config(CONFIG)
