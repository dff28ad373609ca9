"""The mistakes of a config, gathered as they are found, and shown at once."""

from collections.abc import Callable

from gptoss_ft.config.places import ConfigSource, problem_at
from gptoss_ft.config.words import unknown_key
from gptoss_ft.config.yaml_text import Mark
from gptoss_ft.errors import ConfigError, Problem

CURE = "docs/configuration.md lists every key, what it takes and its default."
MOST_SHOWN = 50  # a file with more is of another kind, or made by a program
_BEHIND_THE_FILE = (2**31, 0)  # sorts behind every line


class Mistakes:
    """Every mistake found so far, to be shown in the order of the file, those of overrides behind."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.found: list[tuple[tuple[int, int], Callable[[], Problem]]] = []
        self.in_file: set[tuple[Mark, str]] = set()

    def at(self, mark: Mark, key: str, message: str) -> None:
        self.in_file.add((mark, key))
        self._add(mark, problem_at(f"{self.path}:{mark.line}:{mark.column}", key, message))

    def unknown(self, mark: Mark, key: str) -> None:
        """A key that the schema lacks. Which one is meant takes a while to find: only what is shown is looked for."""
        self.in_file.add((mark, key))
        place = f"{self.path}:{mark.line}:{mark.column}"
        self.found.append((mark, lambda: problem_at(place, key, unknown_key(key))))

    def in_override(self, key: str, message: str) -> None:
        self._add(_BEHIND_THE_FILE, Problem(f"--set {key}", message))

    def of_value(self, source: ConfigSource, key: str, message: str) -> None:
        place = source.place(key)
        if place.startswith("--set "):
            self._add(_BEHIND_THE_FILE, problem_at(place, key, message))
            return
        mark = source.marks.get(key) or source.marks.get(key.rpartition(".")[0], Mark(0, 0))
        if (mark, key) not in self.in_file:  # else it was refused as it was read, and null stands in for it
            self._add(mark, problem_at(place, key, message))

    def _add(self, order: tuple[int, int], problem: Problem) -> None:
        self.found.append((order, lambda: problem))

    def raise_any(self) -> None:
        """Raise ConfigError where there are any: with all of them, of many the first MOST_SHOWN."""
        if self.found:
            shown = sorted(self.found, key=lambda item: item[0])[:MOST_SHOWN]
            left = len(self.found) - len(shown)
            more = f"There are {left:,} more such mistakes. " if left else ""
            raise ConfigError([problem() for _, problem in shown], more + CURE)
