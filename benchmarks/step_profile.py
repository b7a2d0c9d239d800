"""Show where the time of a joint step goes on the CPU: `python -m benchmarks.step_profile`.

Self time of PyTorch's operators over some steps of the recipe `gear`, in groups; one thread.
"""

from __future__ import annotations

import argparse
from collections import defaultdict

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.compiled import joint_step
from benchmarks.run import BATCH, batch
from gear.params import load_preset
from gear.training.distributed import join_process_group

WARM = 2  # steps before those that are profiled
OTHER = "all else"
GROUPS = {  # the first group with a part of the operator's name takes it
    "convolutions": ("convolution",),
    "matrix products": ("aten::mm", "aten::addmm", "aten::linear"),
    "attention: batched products and softmax": ("bmm", "attention", "softmax"),
    "norms": ("_norm",),
    "copies between layouts and dtypes": ("copy_", "aten::cat", "aten::contiguous"),
    "optimisers, clipping and averages": ("adamw", "_foreach", "lerp"),
    "activations, products, sums, dropout masks": (
        *("silu", "gelu", "sigmoid", "mul", "add", "sub", "div", "sum", "where", "random"),
        *("bernoulli", "mean", "exp", "log", "pow", "sqrt", "abs", "clamp", "neg", "fill_"),
    ),
}


def group_of(operator: str) -> str:
    """Return the group of an operator of PyTorch.

    >>> group_of("aten::mkldnn_convolution"), group_of("aten::bmm"), group_of("aten::view")
    ('convolutions', 'attention: batched products and softmax', 'all else')
    """
    return next(
        (group for group, parts in GROUPS.items() if any(part in operator for part in parts)),
        OTHER,
    )


def main() -> None:
    """Print the share of each group, the largest first."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", default="quickstart")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--operators", action="store_true", help="list the operators of each group")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    config = load_preset(arguments.preset)
    step = joint_step(config, join_process_group(config.host, 0), compiled=False)
    data = batch(config, config.data.size)
    for number in range(WARM):
        step(data, number)
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        for number in range(WARM, WARM + arguments.steps):
            step(data, number)
    times: dict[str, dict[str, float]] = defaultdict(dict)
    for row in profiler.key_averages():
        times[group_of(row.key)][row.key] = row.self_cpu_time_total / 1e6 / arguments.steps
    total = sum(sum(operators.values()) for operators in times.values())
    print(f"{total:.2f} s a step of {BATCH} images")
    for group, operators in sorted(times.items(), key=lambda item: -sum(item[1].values())):
        print(f"{sum(operators.values()) / total:6.1%}  {group}")
        if arguments.operators:
            for name, seconds in sorted(operators.items(), key=lambda item: -item[1])[:8]:
                print(f"          {seconds / total:6.1%}  {name}")


if __name__ == "__main__":
    main()
