"""Which exercises are done, chapter by chapter: `make progress`.

It reads what the checks have printed into your notebooks of exercises, in mine/ or in the course's folders,
and runs nothing. A check's line names the cells that it has tried by their digests, so a cell that was
changed since is seen.
"""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from ch01_tokenization.pieces import digest_of_source, notebook_of, read_entries  # noqa: E402

PASSED = re.compile(r"^((?:\d+|[A-Z])\.\d+[a-z]?) passed\.(?: \(([0-9a-f, ]+)\))?$", flags=re.M)


def state_of(entry):
    """What a notebook says of an exercise: "passed", "changed since", "not yet", or "" for never checked."""
    outputs = entry.check["outputs"] if entry.check else []
    printed = "".join("".join(output.get("text", "")) for output in outputs)
    for number, digests in PASSED.findall(printed):
        if number == entry.number:
            cells = {digest_of_source(source) for source in [*entry.code, *entry.own]}
            tried = set(filter(None, digests.split(", ")))
            return "passed" if tried <= cells else "changed since"
    return "not yet" if any(output["output_type"] == "error" for output in outputs) else ""


def folders():
    """The folders of the chapters, then of the appendices."""
    paths = [path for pattern in ("ch0*", "appendix/*") for path in sorted(ROOT.glob(pattern))]
    return [path.relative_to(ROOT).as_posix() for path in paths if path.is_dir()]


def report(folder=None):
    """The lines of the report."""
    done = left = 0
    for chapter in folders():
        path = notebook_of(chapter, folder)
        if path is None:
            continue
        try:
            states = [(entry, state_of(entry)) for entry in read_entries(path)]
        except ValueError as error:
            yield f"{error}; rename it, and `make lab` copies the course's again"
            continue
        passed = [entry for entry, state in states if state == "passed"]
        minutes = sum(entry.minutes for entry in passed)
        rest = sum(entry.minutes for entry, _ in states) - minutes
        done, left = done + minutes, left + rest
        where = path.relative_to(ROOT) if path.is_relative_to(ROOT) else path
        yield f"{where}: {len(passed)} of {len(states)}; {minutes} minutes done, {rest} left"
        for entry, state in states:
            yield f"  {entry.number:6} {entry.title:52} {entry.minutes:3} min  {state}".rstrip()
    yield f"In all {done} minutes done, {left} left."


if __name__ == "__main__":
    print(*report(*map(Path, sys.argv[1:])), sep="\n")
