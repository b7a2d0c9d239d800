"""Print the ZeRO table of docs/scaling.md: `python -m tests.distributed.zero_table`.

Every ZeRO stage takes five joint steps in fp32 on batches of twelve images, with one and two ranks,
with and without gradient accumulation. The table has the largest difference of a weight from a
plain loop on the same batches. It takes a few minutes.
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
