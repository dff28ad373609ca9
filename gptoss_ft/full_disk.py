"""A write that did not fit, as an error that says where: most libraries' exceptions do not."""

import os
import tempfile
from pathlib import Path

from gptoss_ft.errors import DiskError
from gptoss_ft.runtime import cache_folder, hub_cache, output_root

# A disk with less is full: what failed took its last blocks, or needed a few more than there were.
NEXT_TO_NOTHING = 1 << 20


def full_disk(error: BaseException) -> DiskError:
    """`error` (see `errors.is_disk_full`) as a person's. It names the file where the exception does, else those of a
    run's folders whose disk is full; all of them where none is any more, as after a large file that was taken back."""
    named = getattr(error, "filename", None)
    places = [os.fsdecode(named)] if isinstance(named, str | bytes) else list(map(str, _full_places()))
    words = f"under {places[0]}" if len(places) == 1 else f"under one of {', '.join(places)}"
    return DiskError(f"no space is left on the disk {words}", "Make space.")


def _full_places() -> list[Path]:
    places = list(dict.fromkeys((output_root().absolute(), cache_folder(), hub_cache(), Path(tempfile.gettempdir()))))
    return [place for place in places if _is_full(place)] or places


def _is_full(place: Path) -> bool:
    there = next(parent for parent in (place, *place.absolute().parents) if parent.exists())
    state = os.statvfs(there)
    # Some file systems count no inodes.
    return state.f_bavail * state.f_frsize < NEXT_TO_NOTHING or (state.f_files > 0 and state.f_favail == 0)
