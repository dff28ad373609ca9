"""What the trained and the exported model are asked: rows of the job's own data, else built-in questions."""

from typing import TYPE_CHECKING

from gptoss_ft.config import JobConfig
from gptoss_ft.data.conversation import Conversation, Message, RowError
from gptoss_ft.data.entries import open_entries
from gptoss_ft.errors import JobError

if TYPE_CHECKING:  # Unsloth must come before transformers
    from transformers import PreTrainedTokenizerBase

PROMPTS = 8
PROMPT_TOKENS = 256
BUILT_IN = (
    ("Name the three primary colours of paint.", "Red, yellow and blue."),
    ("What is 17 times 6?", "17 times 6 is 102."),
    ("Welche Stadt ist die Hauptstadt von Frankreich?", "Die Hauptstadt von Frankreich ist Paris."),
    ("대한민국의 수도는 어디인가요?", "대한민국의 수도는 서울입니다."),
    ("Continue: 1, 1, 2, 3, 5, 8,", "The next Fibonacci numbers are 13, 21 and 34."),
    ("Write a line of Python that prints the numbers from 1 to 3.", "for number in (1, 2, 3): print(number)"),
    ("¿Por qué el cielo es azul?", "Porque el aire dispersa más la luz azul que la roja."),
    ("Why does ice float on water?", "Ice is less dense than liquid water."),
)


def make_prompts(job: JobConfig, tokenizer: "PreTrainedTokenizerBase", own_data: bool) -> list[list[int]]:
    """Up to `PROMPTS` prompts with their answers as token ids, each of at most `PROMPT_TOKENS`.

    With `own_data` the first rows that the job holds out, else the first that it trains on; where there is no such data
    any more, and without, the built-in questions. All are rendered as the job renders its rows.
    """
    longest = min(PROMPT_TOKENS, job.model.max_seq_length)
    rows = _own_rows(job, tokenizer) if own_data else []
    return [ids[:longest] for ids in rows or _built_in(job, tokenizer)]


def _own_rows(job: JobConfig, tokenizer: "PreTrainedTokenizerBase") -> list[list[int]]:
    from gptoss_ft.data.prepare import prepare

    try:
        data = prepare(job, open_entries(job), tokenizer)
    except JobError:
        # The data may be gone since: what is exported is the model.
        return []
    table = data.eval if data.eval.num_rows else data.train
    rows: list[list[int]] = table.slice(0, PROMPTS).column("input_ids").to_pylist()
    return rows


def _built_in(job: JobConfig, tokenizer: "PreTrainedTokenizerBase") -> list[list[int]]:
    from gptoss_ft.data.prepare import make_renderer
    from gptoss_ft.data.rendering import Encoder, Sample, assemble

    renderer, encoder = make_renderer(tokenizer, job, job.datasets[0]), Encoder(tokenizer)
    prompts = []
    for question, answer in BUILT_IN:
        conversation = Conversation((Message("user", question), Message("assistant", answer)))
        try:
            (sample,) = assemble(renderer.draft(conversation), encoder)
        except RowError as error:
            sample = error
        # A base model may have no chat template that takes it.
        ids = sample.input_ids if isinstance(sample, Sample) else encoder.encode(f"{question}\n{answer}")
        prompts.append(ids.tolist())
    return prompts
