"""Takes the rows of an entry in: what is kept, what is left out and counted, and what stops the run."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

from gptoss_ft.config import DatasetSection
from gptoss_ft.data.conversation import Effort, RowError
from gptoss_ft.data.entries import Entry, keyed
from gptoss_ft.data.readers import Row
from gptoss_ft.data.rendering import Draft, Sample
from gptoss_ft.data.storage import Rendered
from gptoss_ft.data.summary import SourceSummary
from gptoss_ft.errors import DataError, SettingError

# Rows that cannot be trained on, after which reading stops to name them.
ENOUGH_ERRORS = 10
# Rows of each entry that are looked at before anything slow begins.
FIRST_ROWS = 100
TOOLS_COLUMN = DatasetSection.model_fields["tools_column"].default

NOTHING_TRAINED = "without a trained token"
TOO_LONG = "longer than max_seq_length"


@dataclass(frozen=True)
class LaidOut:
    """A row that was adapted and drafted; or what is wrong with it."""

    number: int
    place: str
    drafts: list[Draft] | RowError
    effort: Effort | None

    def named(self, message: object) -> str:
        """`row 3 (data.jsonl:4): message`."""
        return f"row {self.number}{f' ({self.place})' if self.place else ''}: {message}"


@dataclass
class Intake:
    """Takes the rows of one entry in: applies its policies, and counts."""

    entry: Entry
    max_seq_length: int
    summary: SourceSummary
    lengths: list[int] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    too_long_refused: int = 0
    longest_refused: int = 0

    def take(self, row: LaidOut, samples: list[Sample] | RowError) -> Iterator[Rendered]:
        """The row's samples that are kept. Raises `DataError` once enough rows are refused."""
        self.summary.rows += 1
        if isinstance(samples, RowError):
            self.leave_out(row, samples)
            return
        kept, reasons = 0, []
        for index, sample in enumerate(samples):
            if sample.trained_tokens:
                self.lengths.append(len(sample.input_ids))
            fitted, reason = self._fit(sample)
            if fitted is None:
                reasons.append((reason, f"{len(sample.input_ids):,} tokens"))
                self.summary.dropped_samples[reason] += 1
                continue
            kept += 1
            yield Rendered(fitted, self.entry.index, row.number, index, row.effort)
        too_long = [words for reason, words in reasons if reason == TOO_LONG]
        if too_long and self.entry.config.on_too_long == "error":
            self.too_long_refused += 1
            self.longest_refused = max(self.longest_refused, *(len(sample.input_ids) for sample in samples))
            self._refuse(row, f"{too_long[0]}, more than model.max_seq_length {self.max_seq_length:,}")
        if not kept:
            reason, words = reasons[0] if reasons else (NOTHING_TRAINED, "no answer in it is to be trained")
            self.summary.drop(reason, row.named(words))

    def _fit(self, sample: Sample) -> tuple[Sample | None, str]:
        """The sample as it is kept, or the reason why it is not."""
        if not sample.trained_tokens:
            return None, NOTHING_TRAINED
        if len(sample.input_ids) <= self.max_seq_length:
            return sample, ""
        if self.entry.config.on_too_long != "truncate":
            return None, TOO_LONG
        shorter, cut = sample.truncated(self.max_seq_length)
        if not shorter.trained_tokens:
            return None, TOO_LONG
        self.summary.truncated += 1
        self.summary.cut_answers += cut
        return shorter, ""

    def leave_out(self, row: LaidOut, error: RowError) -> None:
        """Count an invalid row. Raises `DataError` once enough rows are refused."""
        self.summary.drop(f"invalid: {error.fault}", row.named(error))
        if self.entry.config.on_invalid == "error":
            self._refuse(row, str(error))

    def _refuse(self, row: LaidOut, message: str) -> None:
        self.refused.append(row.named(message))
        if len(self.refused) >= ENOUGH_ERRORS:
            self.raise_refused(all_read=False)

    def raise_refused(self, all_read: bool = True) -> None:
        """Raise `DataError` if rows were met that the policies do not allow."""
        if self.refused:
            number = f"{len(self.refused)} row{'s' * (len(self.refused) > 1)}"
            found = f"{number} of {self.summary.rows:,}" if all_read else f"at least {number}"
            raise DataError(
                "\n  ".join([f"{self.entry.source.description}: {found} cannot be trained on", *self.refused]),
                self._cure(),
                key=f"{self.entry.key}.path",
            )

    def _cure(self) -> str:
        """What helps against the rows that are refused, of which there may be two kinds."""
        cures = []
        if len(self.refused) > self.too_long_refused:
            cures.append(f"Mend them (rows count from 0), or leave such rows out: {self.entry.key}.on_invalid: drop.")
        if self.too_long_refused:
            cures.append(
                f"Raise model.max_seq_length ({self.longest_refused:,} keeps those above), or set "
                f"{self.entry.key}.on_too_long to drop or truncate."
            )
        return " ".join(cures)

    def finish(self) -> None:
        """After the last row: raise `DataError` for rows that are refused, and for more invalid ones than allowed."""
        self.raise_refused()
        invalid = {reason: number for reason, number in self.summary.dropped.items() if reason.startswith("invalid: ")}
        allowed = self.entry.config.max_invalid_fraction
        if sum(invalid.values()) > allowed * self.summary.rows:
            share = f"{sum(invalid.values()) / self.summary.rows:.1%} of {self.summary.rows:,} rows are invalid"
            found = [f"{number:,} {reason}: {self.summary.examples[reason][0]}" for reason, number in invalid.items()]
            raise DataError(
                "\n  ".join([f"{self.entry.source.description}: {share}", *found]),
                f"Mend the data or how it is read; {self.entry.key}.max_invalid_fraction (now {allowed}) allows more.",
                key=f"{self.entry.key}.path",
            )


def check_first_rows(entries: Sequence[Entry]) -> None:
    """Raise `DataError` for rows among the first that are not what their format says, where such rows are an error.

    It needs no tokenizer: a mistake in how the data is read shows before the libraries are loaded.
    """
    for entry in entries:
        with keyed(entry.key):
            _check_named(entry)
        if entry.config.on_invalid == "drop":
            continue
        intake = Intake(entry, 0, SourceSummary(description=entry.source.description, fingerprint=""))
        with keyed(entry.key):
            for number, row in enumerate(islice(entry.source.rows(), FIRST_ROWS)):
                try:
                    if isinstance(row.content, RowError):
                        raise row.content
                    entry.adapter.adapt(row.content)
                except RowError as error:
                    intake.leave_out(LaidOut(number, row.place, error, None), error)
            intake.raise_refused(all_read=False)


def _check_named(entry: Entry) -> None:
    """Raise `SettingError` for a `tools_column` or `thinking_key` that no row has: a slip there loses it all in
    silence. Reads as far as the first row that has it, for it may come late."""
    config = entry.config
    if config.tools_column != TOOLS_COLUMN and not any(config.tools_column in row for row in _readable(entry)):
        raise SettingError(
            f"no row has a column {config.tools_column}; there are: {', '.join(entry.source.columns)}",
            "Name the column of tool definitions, or leave the key out.",
            key="dataset.tools_column",
        )
    if config.thinking_key is None or config.format != "sharegpt":
        return
    keys: dict[str, None] = {}
    for row in _readable(entry):
        messages = row.get(entry.adapter.columns[0])
        if not isinstance(messages, list):  # as JSON text: not looked into
            return
        for message in messages:
            keys |= dict.fromkeys(message if isinstance(message, dict) else ())
        if config.thinking_key in keys:
            return
    raise SettingError(
        f"no message has the key {config.thinking_key}; they have: {', '.join(keys)}",
        "Name the key of the thinking, or null for thinking, reasoning_content or reasoning.",
        key="dataset.thinking_key",
    )


def _readable(entry: Entry) -> Iterator[Row]:
    return (row.content for row in entry.source.rows() if not isinstance(row.content, RowError))
