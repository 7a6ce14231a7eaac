"""`make torture`: bad input, kills, faults and load, and a table of what was tried, survived and lost."""

from __future__ import annotations

import argparse
import sys
import time

from tests.torture.outcome import Row
from tests.torture.plan import SECTIONS
from training.console import print_table


def main() -> int:
    """Run the sections named, all by default; returns 1 if anything was lost."""
    parser = argparse.ArgumentParser(prog="python -m tests.torture", description=__doc__)
    parser.add_argument("sections", nargs="*", choices=[*SECTIONS, []], help="which ones; all by default")
    parser.add_argument("--share", type=float, default=1.0, help="of the cases, such as 0.1 for a tenth; default 1")
    arguments = parser.parse_args()
    rows: list[Row] = []
    start = time.perf_counter()
    for name in arguments.sections or SECTIONS:
        begun = time.perf_counter()
        rows += SECTIONS[name](arguments.share)
        print(f"{name}: {time.perf_counter() - begun:.0f} s", file=sys.stderr, flush=True)
    shown = [
        [
            row.check,
            f"{row.tried:,}",
            f"{row.survived:,}",
            f"{row.lost:,}",
            (row.skipped and f"skipped: {row.skipped}") or row.note,
        ]
        for row in rows
    ]
    tried, lost = sum(row.tried for row in rows), sum(row.lost for row in rows)
    shown.append(["all", f"{tried:,}", f"{tried - lost:,}", f"{lost:,}", f"{time.perf_counter() - start:.0f} s"])
    print_table("Torture", ["check", "tried", "survived", "lost", "note"], shown)
    for row in rows:
        for failure in row.failures[:20]:
            print(f"lost: {row.check}: {failure}", file=sys.stderr)
    return 1 if lost else 0


if __name__ == "__main__":
    sys.exit(main())
