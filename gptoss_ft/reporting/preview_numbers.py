"""The numbers of a preview: what became of the rows, channels, lengths, and the run that they make."""

import math
from dataclasses import dataclass

from gptoss_ft.config import JobConfig
from gptoss_ft.data.rendering import CHANNELS
from gptoss_ft.data.summary import SourceSummary, SplitSummary, Summary, quantile
from gptoss_ft.reporting.console import visible

# A tenth of the range each, rounded up to 1, 2 or 5 times a power of ten.
BINS = 10
BAR = 40
QUANTILES = (50, 90, 99)


def counts(summary: Summary) -> dict[str, str]:
    """What became of the rows, as name → words."""
    values: dict[str, str] = {}
    if len(summary.sources) == 1:
        values |= _source_in_words(summary.sources[0], "source", "  ")
    else:
        values["rows"] = f"{summary.rows:,}, of which {sum(source.kept for source in summary.sources):,} are kept"
        for number, source in enumerate(summary.sources):
            values |= _source_in_words(source, f"source {number}", f"  {number}: ")
    values["training"] = _split_in_words(summary.train)
    values["evaluation"] = _split_in_words(summary.eval) if summary.eval.samples else "none"
    efforts = summary.train.efforts + summary.eval.efforts
    values["reasoning effort"] = ", ".join(f"{number:,} {effort}" for effort, number in efforts.items())
    texts = summary.train.plain_texts + summary.eval.plain_texts
    values["plain texts"] = f"{texts:,} samples, trained whole" if texts else "none"
    return values


def _source_in_words(source: SourceSummary, name: str, indent: str) -> dict[str, str]:
    values = {name: f"{source.description}: {source.rows:,} rows, of which {source.kept:,} are kept"}
    for reason, dropped in source.dropped.items():
        named = source.examples[reason]
        more = "; …" if dropped > len(named) else ""
        values[f"{indent}{reason}"] = visible(f"{dropped:,} rows left out: {'; '.join(named)}{more}")
    if source.dropped_samples:
        left_out = [f"{number:,} {reason}" for reason, number in source.dropped_samples.items()]
        values[f"{indent}samples left out"] = ", ".join(left_out)
    if source.truncated:
        values[f"{indent}truncated"] = f"{source.truncated:,} samples; {source.cut_answers:,} answers lost their end"
    return values


def _split_in_words(split: SplitSummary) -> str:
    share = 100 * split.trained_tokens / split.tokens
    return (
        f"{split.samples:,} samples of {split.rows:,} rows, {split.tokens:,} tokens, of which {split.trained_tokens:,} "
        f"({share:.1f} %) are trained"
    )


def channel_rows(split: SplitSummary) -> list[tuple[str, str, str]]:
    """Trained tokens of each channel and of all: name, number, share of the trained ones."""
    numbers = [(channel, split.channels[channel]) for channel in CHANNELS if split.channels[channel]]
    return [
        (name, f"{number:,}", f"{100 * number / split.trained_tokens:.1f} %")
        for name, number in [*numbers, ("all", split.trained_tokens)]
        if number
    ]


def plan(summary: Summary, job: JobConfig) -> dict[str, str]:
    """How long the run will be on one device, as name → words; the trainer counts steps in the same way."""
    training, split = job.training, summary.train
    micro, accumulation = training.per_device_train_batch_size, training.gradient_accumulation_steps
    a_pass = math.ceil(math.ceil(split.samples / micro) / accumulation)
    if training.max_steps is not None:
        steps, epochs = training.max_steps, training.max_steps / a_pass
        run = f"{steps:,} steps (training.max_steps), {_number(epochs)} epochs"
    else:
        epochs = training.num_train_epochs or 1.0
        steps = math.ceil(epochs * a_pass)
        run = f"{_number(epochs)} epochs (training.num_train_epochs), {steps:,} steps"
    tokens = steps / a_pass * split.trained_tokens
    return {
        "effective batch": f"{micro * accumulation:,} samples: micro-batch {micro:,} × accumulation {accumulation:,}, "
        "on one device",
        "steps in an epoch": f"{a_pass:,}",
        "the run": run,
        "trained tokens": f"about {tokens:,.0f} in the run, {tokens / steps:,.0f} in a step",
    }


def _number(value: float) -> str:
    return f"{value:.1g}" if 0 < value < 0.01 else f"{value:,.2f}".rstrip("0").rstrip(".")


@dataclass(frozen=True)
class Bin:
    """Samples of `first` to `last` tokens, both included, and what is marked among them."""

    first: int
    last: int
    samples: int
    marks: tuple[str, ...]

    @property
    def label(self) -> str:
        return f"{self.first:,} – {self.last:,}" if self.last > self.first else f"{self.first:,}"


@dataclass(frozen=True)
class Histogram:
    """Samples by length in tokens, before those too long are left out."""

    title: str
    bins: tuple[Bin, ...]

    @property
    def most(self) -> int:
        return max(bin_.samples for bin_ in self.bins)


def histogram(summary: Summary) -> Histogram:
    """Bins of equal width through the 99 % quantile; one more holds the longer samples."""
    lengths, limit = summary.rendered_lengths, summary.max_seq_length
    low, high = min(lengths), max(lengths)
    body = quantile(lengths, 0.99)
    width = _round_width((body - low + 1) / BINS)
    edges = list(range(low // width * width, body + 1, width))
    ends = [edge + width - 1 for edge in edges]
    if high > ends[-1]:
        edges.append(ends[-1] + 1)
        ends.append(high)
    marked = [(f"{share} % ≤ {(value := quantile(lengths, share / 100)):,}", value) for share in QUANTILES]
    marked.append((f"max_seq_length {limit:,}", limit))
    bins = tuple(
        Bin(
            first,
            last,
            sum(number for length, number in lengths.items() if first <= length <= last),
            tuple(words for words, value in marked if first <= value <= last),
        )
        for first, last in zip(edges, ends, strict=True)
    )
    longer = sum(number for length, number in lengths.items() if length > limit)
    title = f"{lengths.total():,} samples by length in tokens, {longer:,} longer than max_seq_length {limit:,}"
    return Histogram(title, bins)


def _round_width(least: float) -> int:
    """The smallest of 1, 2, 5, 10, 20, 50, … that is no less."""
    power = int(10 ** math.floor(math.log10(max(least, 1))))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= least)


def bar(share: float) -> str:
    """Blocks of eighths for a share of the longest bar; what is more than nothing shows."""
    eighths = max(math.ceil(share), round(8 * BAR * share))
    return "█" * (eighths // 8) + " ▏▎▍▌▋▊▉"[eighths % 8].strip()
