"""Format the estimated cost of a run at scale as a table."""

from __future__ import annotations

from gear.commands.estimate import (
    GIB,
    Part,
    alone,
    forward_flops,
    kept_bytes,
    measure,
    model_states,
    perceptual_network,
    saved_bytes,
    teacher_flops,
    teacher_widths,
    warm_up_flops,
    whole_batch_flops,
)
from gear.core.errors import InputError
from gear.data.shards import VALIDATION_IMAGES
from gear.encoders.teacher_features import LARGEST_CACHE, cache_bytes, is_cached
from gear.joint.recipes import RECIPES
from gear.params import Config
from gear.training.engine import accumulation
from gear.training.reporter import duration

USABLE = 0.85  # share of a GPU's memory for states and activations
# measured by benchmarks/loader.py: images a second a core at 256 and at 32 px; bytes at 256 px
LOADER_RATE = {"png": (440.0, 7800.0), "jpeg": (1220.0, 16500.0)}
IMAGE_BYTES = {"png": 115 * 1024, "jpeg": 46 * 1024}


def plan(
    config: Config, *, gpus: int, tflops: float, memory: float, images: int, source: str
) -> str:
    """Return the estimate as a table.

    Args:
        config: The settings.
        gpus: Number of GPUs.
        tflops: Sustained teraflop/s per GPU, as measured or assumed.
        memory: Memory per GPU in GiB.
        images: Number of training images.
        source: Where that number is from, in words.
    """
    if config.joint.batch % gpus:
        raise InputError(f"--gpus {gpus}: joint.batch {config.joint.batch} does not divide by it")
    parts = measure(config)
    trains = RECIPES[config.joint.recipe].tokenizer_trains
    if trains and (network := perceptual_network(config)):
        parts.append(network)
    share = config.joint.batch // gpus
    each = kept_bytes(config, parts)
    offload = config.host.offload_optimizer
    fixed = sum(model_states(parts, config.host.zero_stage, gpus, offload=offload))
    size = fitting_size(share, each, fixed, memory * GIB)
    in_parts = config.host.micro_batch or size or 1
    features = cache_bytes(images, 1 + config.data.flip, config.grid, sum(teacher_widths(config)))
    cached = is_cached(config.teacher.cache, features)
    extra = {} if cached else {"teacher": sum(map(teacher_flops, config.teacher.encoders))}
    if config.host.activation_checkpointing:
        extra["recomputed"] = forward_flops(config)
    teaching = sum(extra.values())
    if trains and accumulation(config.joint.batch, gpus, in_parts) > 1:
        extra["whole batch"] = whole_batch_flops(
            config, config.tokenizer.steps + config.joint.steps
        )
    lines = [
        f"recipe {config.joint.recipe}, {config.data.size} px, {config.grid**2} tokens, "
        f"batch {config.joint.batch} on {gpus} GPU{'s' if gpus > 1 else ''}",
        f"{images} training images ({source})",
        "",
    ]
    lines += [f"{'':16s}{'parameters':>12s}{'GFLOP / image':>16s}"]
    lines += [f"{p.name:16s}{p.parameters / 1e6:10.1f} M{p.flops / 1e9:16.1f}" for p in parts]
    lines += [f"{name:16s}{'':12s}{flops / 1e9:16.1f}" for name, flops in extra.items()]
    image = sum(p.flops for p in parts) + sum(extra.values())
    seconds = image * config.joint.batch / (gpus * tflops * 1e12)
    lines += [
        "",
        f"joint step: {image * config.joint.batch / 1e12:.2f} TFLOP, "
        f"{seconds:.3g} s at {tflops:g} TFLOP/s a GPU",
    ]
    warm_parts = accumulation(config.tokenizer.batch, gpus, in_parts)
    of_image = {
        "warm-up": warm_up_flops(config, parts=warm_parts),
        "joint": image,
        "stage 2": alone(config)[1] + teaching,
    }
    rates = {name: gpus * tflops * 1e12 / flops for name, flops in of_image.items()}  # images/s
    lines += [
        f"{count} {name}: {duration(count * batch / rates[stage])}"
        for stage, name, count, batch in (
            ("warm-up", "warm-up steps", config.tokenizer.steps, config.tokenizer.batch),
            ("joint", "joint steps", config.joint.steps, config.joint.batch),
            ("stage 2", "steps of stage 2", config.generator.steps, config.joint.batch),
        )
    ]
    lines += [time_line(config, cached), "", "memory a GPU, GiB"]
    lines += [f"  {'':8s}{'states':>8s}{'average':>9s}{'kept':>8s}{'sum':>8s}"]
    kept = each * share
    for stage in range(4):
        states, average = model_states(parts, stage, gpus, offload=offload and stage > 0)
        lines.append(
            f"  ZeRO-{stage}  {states / GIB:8.2f}{average / GIB:9.2f}{kept / GIB:8.2f}"
            f"{(states + average + kept) / GIB:8.2f}"
        )
    lines += [
        "kept: activations that autograd holds between a forward and its backward pass; "
        "workspaces come on top",
        "",
    ]
    lines += [micro_batch_line(size, share, each, fixed, memory * GIB)]
    if config.host.compile:
        lines += [
            "host.compile: not counted: a step took about half this memory on the one GPU where it "
            "was measured (docs/performance.md); compiling takes minutes more"
        ]
    lines += [teacher_line(config, features, cached)]
    lines += disk_lines(config, parts, images, features if cached else 0)
    at_256, at_most = LOADER_RATE[config.data.encoding]
    per_core = min(at_256 * (256 / config.data.size) ** 2, at_most)
    if cached:  # stage 2 reads tokens and features alone
        del rates["stage 2"]
    of_stages = ", ".join(
        f"{stage} {rate:.0f} images/s ({rate / per_core:.1f} cores)"
        for stage, rate in rates.items()
    )
    lines += [
        f"loader: {of_stages}",
        f"({per_core:.0f} images/s a core, {config.data.encoding}, by benchmarks/loader.py)",
    ]
    return "\n".join(lines)


def time_line(config: Config, cached: bool) -> str:
    """Return a line on what the hours leave out."""
    slow = [] if cached else ["the teacher"]
    if config.loss.perceptual and config.loss.vgg16.path:
        slow.append("LPIPS")
    in_fp32 = f"; {' and '.join(slow)} run in fp32, which is slower" if slow else ""
    packaged = config.loss.perceptual and not config.loss.vgg16.path
    uncounted = "; the perceptual loss's network is not counted" if packaged else ""
    return f"(lower bounds: benchmarks.gpu times bf16 steps without teacher{in_fp32}{uncounted})"


def fitting_size(share: int, each: float, fixed: float, memory: float) -> int | None:
    """Return the largest part of a GPU's share of a batch that fits its memory; None if none does.

    Args: those of `micro_batch_line`.
    """
    room = USABLE * memory - fixed
    sizes = (size for size in range(share, 0, -1) if share % size == 0 and size * each <= room)
    return next(sizes, None)


def micro_batch_line(size: int | None, share: int, each: float, fixed: float, memory: float) -> str:
    """Return a line on the largest host.micro_batch that fits into a GPU's memory.

    Args:
        size: Images of the largest part that fits; None if not one image fits.
        share: Images of a step on a GPU.
        each: Bytes of activations an image.
        fixed: Bytes of states and averages.
        memory: Bytes of a GPU.
    """
    if size is None:
        return (
            f"host.micro_batch: not one image fits {memory / GIB:.0f} GiB: use a higher "
            "host.zero_stage, more GPUs, host.activation_checkpointing or host.offload_optimizer"
        )
    used = (fixed + size * each) / GIB
    parts = "1 part" if size == share else f"{share // size} parts"
    return (
        f"host.micro_batch: {size}, {parts} a step, {used:.1f} of {memory / GIB:.0f} GiB "
        f"({1 - USABLE:.0%} left for workspaces)"
    )


def teacher_line(config: Config, features: int, cached: bool) -> str:
    """Return a line on whether teacher features are cached, and why."""
    reason = f"teacher.cache is {config.teacher.cache}"
    if config.teacher.cache == "auto":
        reason = f"{'up to' if cached else 'over'} {LARGEST_CACHE >> 30} GiB"
    what = "cached on disk" if cached else "computed in every step"
    return f"teacher features: {features / GIB:.3g} GiB, {what} ({reason})"


def disk_lines(config: Config, parts: list[Part], images: int, features: int) -> list[str]:
    """Return lines on the disk space of a run and of DVC's cache in GiB."""
    pixels = (config.data.size / 256) ** 2
    validation = min(VALIDATION_IMAGES, round(images * config.data.val_share))
    sizes = {
        "shards": images * pixels * IMAGE_BYTES[config.data.encoding],
        "teacher features": features,
        "features of validation images": cache_bytes(
            validation, 1, config.grid, sum(teacher_widths(config))
        ),
        "tokens of stage 2": images * (1 + config.data.flip) * config.grid**2 * 2,
        # the newest, the one before it, and one that is being written
        "three states": 3 * saved_bytes(parts, config.host.zero_stage),
        "samples": config.sample.n * pixels * IMAGE_BYTES["png"],
    }
    total = sum(sizes.values())
    listed = ", ".join(f"{name} {size / GIB:.3g}" for name, size in sizes.items() if size)
    cached = total - sizes["tokens of stage 2"] - sizes["three states"]
    return [
        f"disk: {total / GIB:.3g} GiB ({listed})",
        f"DVC's cache: {cached / GIB:.3g} GiB more on a file system without reflinks, such as ext4",
    ]
