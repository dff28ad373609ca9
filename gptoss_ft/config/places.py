"""Where each value of a job came from, and how an error says so."""

from collections.abc import Mapping
from dataclasses import dataclass

from gptoss_ft.config.keys import parse_key
from gptoss_ft.config.words import shown_text
from gptoss_ft.config.yaml_text import Mark
from gptoss_ft.errors import Problem


@dataclass(frozen=True)
class ConfigSource:
    """Where each value of a job came from.

    `path` is the file as the user named it, `marks` the place of every section, entry and value in it by dotted
    key (`lora.r`, `lora.target_modules[1]`, `dataset[0].path`), `overrides` the keys that `--set` gave.
    """

    path: str
    marks: Mapping[str, Mark]
    overrides: tuple[str, ...]

    def place(self, key: str) -> str:
        """`config.yaml:12:19` or `--set lora.r`; for a key nobody gave, its section's or entry's, and `(default)`.

        Where the dataset is a list, `dataset.path` is no entry's: its place is the list's. Raises KeyError for a key
        that the schema lacks.
        """
        parsed = parse_key(key)
        if parsed is None:
            raise KeyError(key)
        section, owner, name, rest = parsed
        is_list = f"{section}[0]" in self.marks
        if not is_list:
            owner = section
        whole = f"{owner}.{name}" if name else owner
        if whole in self.overrides:
            return f"--set {whole}"
        for known in (whole + rest, whole, owner, section):
            if known in self.marks:
                mark = self.marks[known]
                is_default = name and known == owner and not (is_list and owner == section)
                return f"{self.path}:{mark.line}:{mark.column}{' (default)' if is_default else ''}"
        return f"{self.path} (default)"

    def problem(self, key: str, message: str) -> Problem:
        """A mistake that a later room found, with its place: a length beyond the model's own, say."""
        return problem_at(self.place(key), key, message)


def problem_at(place: str, key: str, message: str) -> Problem:
    """`config.yaml:12:19: lora.r: message`, but `--set lora.r: message`, which names its key already."""
    return Problem(place, f"{shown_text(key)}: {message}" if key and place != f"--set {key}" else message)
