"""Print the detection matrix; exit 1 when a fault is missed or a clean model is accused."""

from __future__ import annotations

import sys
import time

from tabulate import tabulate

from tests.faults import CASES, load


def main(words: list[str]) -> int:
    """Run the cases whose command or name is among `words` (all, without words)."""
    load()
    rows, missed = [], 0
    for case in CASES:
        if words and not {case.command, case.name} & set(words):
            continue
        start = time.monotonic()
        failed = case.failed()
        right = case.detected(failed)
        missed += not right
        also = ", ".join(check for check in failed if check != case.check)
        rows.append([case.command, case.name, case.check or "(clean)", "yes" if right else "NO", also])
        print(f"{case.name}: {time.monotonic() - start:.1f} s", file=sys.stderr, flush=True)
    print(tabulate(rows, ["command", "planted fault", "caught by", "right", "also failing"]))
    faults = sum(row[2] != "(clean)" for row in rows)
    print(f"\n{faults} faults, {len(rows) - faults} clean models, {missed} wrong")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
