"""Compare batch size, memory format and glibc's handling of freed buffers in feature extraction.

    python benchmarks/encoder.py

Each row runs in its own process, since glibc's settings cannot be undone.

Compare the ratios to the first row; images/s depend on the machine.
"""

from __future__ import annotations

import itertools
import subprocess
import sys
import time

ONE = """
import sys, time, torch
from gear.encoders.efficientnet import build_encoder
from gear.core.memory import keep_freed_memory
keep, channels_last, batch = (int(a) for a in sys.argv[1:])
if keep:
    keep_freed_memory()
encoder = build_encoder()
memory_format = torch.channels_last if channels_last else torch.contiguous_format
encoder = encoder.to(memory_format=memory_format)
images = torch.rand(256, 3, 32, 32) * 2 - 1
with torch.inference_mode():
    encoder(images[:batch], 128)
    start = time.perf_counter()
    for part in images.split(batch):
        encoder(part, 128)
print(256 / (time.perf_counter() - start))
"""


def main() -> None:
    """Print one row per combination."""
    print(f"{'freed memory':14s}{'format':16s}{'batch':>6s}{'images/s':>10s}{'ratio':>7s}")
    first = None
    for keep, channels_last, batch in itertools.product((0, 1), (0, 1), (128, 32)):
        command = [sys.executable, "-c", ONE, str(keep), str(channels_last), str(batch)]
        rate = float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        first = first or rate
        names = ("kept" if keep else "returned", "channels last" if channels_last else "contiguous")
        print(f"{names[0]:14s}{names[1]:16s}{batch:6d}{rate:10.0f}{rate / first:7.2f}", flush=True)
        time.sleep(0.5)


if __name__ == "__main__":
    main()
