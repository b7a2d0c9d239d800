"""Print the table of docs/scaling.md: `python -m tests.distributed.zero_table`, a few minutes.

Every ZeRO stage, with one and two ranks and with and without accumulation, takes five joint steps
in fp32 on the same twelve images a step as a plain loop. The table has the largest difference of a
weight after them.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from tests.distributed.accumulation import PARTS, QUANTIZERS
from tests.distributed.test_accumulation import LIMIT, differences, plain_weights

STAGES, RANKS = (0, 1, 2, 3), (1, 2)


def main() -> int:
    plain = plain_weights()
    worst = {}
    with tempfile.TemporaryDirectory() as scratch:
        for ranks in RANKS:
            worst[ranks] = differences(plain, Path(scratch) / f"{ranks}.pt", ranks, STAGES)
    print(f"| ZeRO stage | ranks | parts a step | {' | '.join(QUANTIZERS)} |")
    print("|---|---|---|" + "---|" * len(QUANTIZERS))
    for stage in STAGES:
        for ranks in RANKS:
            for parts in PARTS:
                found = [worst[ranks][f"{quantizer}-{stage}-{parts}"] for quantizer in QUANTIZERS]
                print(f"| {stage} | {ranks} | {parts} | {' | '.join(f'{v:.1e}' for v in found)} |")
    return int(max(value for found in worst.values() for value in found.values()) >= LIMIT)


if __name__ == "__main__":
    sys.exit(main())
