"""Time steps of gear/ against the plain code in benchmarks/plain.py: `make bench`.

    python -m benchmarks.run [--rounds N] [--only WORD] [--busy]

Both sides have the same weights and data in one process and take turns; compare the ratio of the
medians. `--busy` runs another computing process at the same time.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.plain import PlainGenerator, PlainStep, PlainTokenizer
from gear.core.hardware import hardware_class
from gear.core.memory import keep_freed_memory
from gear.encoders.efficientnet import build_encoder
from gear.generator.config import GeneratorShape, SampleConfig
from gear.generator.sampling import sample, sample_seeds
from gear.generator.transformer import Generator
from gear.joint.alignment import Projector
from gear.joint.model import GuidedGenerator
from gear.joint.recipes import RECIPES
from gear.joint.step import JointStep
from gear.losses.perceptual import EarlyFeaturesLoss
from gear.params import load_preset
from gear.tokenizer.model import Tokenizer
from gear.training.autoencoder import AutoencoderStep
from gear.training.batches import Batch
from gear.training.distributed import join_process_group
from gear.training.ema import EMA
from gear.training.engine import build_engine

HISTORY = Path(__file__).parent / "history.jsonl"
MARGIN = 0.75  # times a recorded ratio: below that, a slowdown is reported
CLASSES, TEACHER, BATCH = 8, 112, 64
SMALL = {"layers": 12, "heads": 6, "width": 384, "tap": 4}  # about LlamaGen-S
Side = Callable[[], object]
Case = tuple[Side, Side, int]  # plain, ours, images


def batch(config, size: int) -> Batch:
    random = torch.Generator().manual_seed(0)
    images = torch.rand(BATCH, 3, size, size, generator=random) * 2 - 1
    teacher = torch.randn(BATCH, config.grid**2, TEACHER, generator=random)
    labels = torch.arange(BATCH) % CLASSES
    seeds = tuple(range(BATCH))
    return Batch(images, labels, teacher, [str(i) for i in range(BATCH)], None, seeds)


def trainings() -> dict[str, Case]:
    config = load_preset("quickstart")
    world = join_process_group(config.host, 0)
    torch.manual_seed(0)
    tokenizer = Tokenizer(config.tokenizer)
    shape = GeneratorShape.pick(config.generator.model_dump())
    generator = Generator(shape, codes=config.tokenizer.codes, grid=config.grid, classes=CLASSES)
    guided = GuidedGenerator(generator, Projector(shape.width, shape.projector_hidden, (TEACHER,)))
    plain_tokenizer = PlainTokenizer(config.tokenizer)
    plain_tokenizer.load_state_dict(tokenizer.state_dict())
    plain_guided = PlainGenerator(shape, config.tokenizer.codes, config.grid, CLASSES, TEACHER)
    plain_guided.load_state_dict(guided.state_dict())
    data = batch(config, config.data.size)
    with torch.no_grad():
        tokens = tokenizer.encode(data.images()).indices
        found, expected = tokenizer(data.images()), plain_tokenizer(data.images())
        torch.testing.assert_close(found.reconstruction, expected[0], rtol=1e-4, atol=1e-4)
        assert torch.equal(tokens, expected[2])
    encoder = build_encoder()
    plain = PlainStep(plain_tokenizer, plain_guided, build_encoder())

    def engine(module: torch.nn.Module):
        return build_engine(module, config.train, world, lr=1e-3, batch=BATCH)

    autoencoder = AutoencoderStep(
        tokenizer, engine(tokenizer), config.loss, config.gan, bf16=True,
        perceptual=EarlyFeaturesLoss(encoder),
    )  # fmt: skip
    own = engine(guided)
    joint = JointStep(
        RECIPES["gear"], config.joint, own, bf16=True, autoencoder=autoencoder, temperature=0.1
    )
    frozen = JointStep(RECIPES["llamagen_repa"], config.joint, own, bf16=True)
    averages = {"tokenizer": EMA(tokenizer, 0.98), "guided": EMA(guided, 0.98)}
    with_tokens = Batch(None, data.conditions(), data.teacher(), data.keys, tokens, data.seeds)

    def ours() -> None:
        joint(data, 0)
        for average in averages.values():
            average.update()

    def ours_frozen() -> None:
        frozen(with_tokens, 0)
        averages["guided"].update()

    return {
        "joint step, recipe gear": (
            lambda: plain.joint(data.images(), data.conditions(), data.teacher(), 0.1),
            ours,
            BATCH,
        ),
        "frozen tokenizer, cached tokens": (
            lambda: plain.frozen(tokens, data.conditions(), data.teacher()),
            ours_frozen,
            BATCH,
        ),
    }


def samplings() -> dict[str, Case]:
    quick = load_preset("quickstart")
    own = GeneratorShape.pick(quick.generator.model_dump())
    small = GeneratorShape.model_validate({**own.model_dump(), **SMALL})
    cases: dict[str, Case] = {}
    for name, shape, codes, grid, count, guidance in (
        ("sampling, guidance 1", own, quick.tokenizer.codes, quick.grid, 192, 1.0),
        ("sampling, guidance 2", own, quick.tokenizer.codes, quick.grid, 192, 2.0),
        ("sampling, width 384, K 16384, 256 tokens, batch 16", small, 16384, 16, 16, 1.0),
    ):
        torch.manual_seed(0)
        generator = Generator(shape, codes=codes, grid=grid, classes=CLASSES)
        torch.nn.init.normal_(generator.output.weight, std=0.02)
        plain = PlainGenerator(shape, codes, grid, CLASSES, TEACHER).eval()
        plain.generator.load_state_dict(generator.state_dict())
        generator.eval()
        labels = torch.arange(count) % CLASSES
        settings = SampleConfig(n=count, guidance=guidance)
        cases[name] = (
            lambda p=plain, y=labels, s=guidance: p.sample(y, s, 0),
            lambda g=generator, y=labels, c=settings: sample(g, y, sample_seeds(0, len(y)), c),
            count,
        )
    return cases


def measure(case: Case, rounds: int) -> tuple[list[float], list[float]]:
    """Return the seconds of both sides, which take turns; the first round is not timed."""
    times: tuple[list[float], list[float]] = ([], [])
    for number in range(rounds + 1):
        for side, seconds in zip(case[:2], times, strict=True):
            began = time.perf_counter()
            side()
            if number:
                seconds.append(time.perf_counter() - began)
    return times


def recorded() -> dict[str, float]:
    """Return the last ratios in history.jsonl of this kind of processor and number of threads."""
    rows = [json.loads(line) for line in HISTORY.read_text().splitlines()]
    here = {"hardware": hardware_class(), "threads": torch.get_num_threads()}
    same = [row for row in rows if here.items() <= row.items()]
    return {key: value for key, value in same[-1].items() if key not in here} if same else {}


def spin() -> None:
    x = torch.randn(256, 256)
    torch.set_num_threads(1)
    while True:
        x = torch.tanh(x @ x)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default="")
    parser.add_argument("--busy", action="store_true")
    parser.add_argument("--record", action="store_true", help="add the ratios to history.jsonl")
    options = parser.parse_args()
    keep_freed_memory()
    beside = multiprocessing.get_context("spawn").Process(target=spin, daemon=True)
    if options.busy:
        beside.start()
    ratios = {}
    cases = {**trainings(), **samplings()}
    print(f"{hardware_class()}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    print(f"{'':52s}{'plain':>16s}{'ours':>16s}{'ratio':>7s}")
    for name, case in cases.items():
        if options.only not in name:
            continue
        plain, ours = (statistics.median(x) for x in measure(case, options.rounds))
        ratios[name] = round(plain / ours, 2)
        print(
            f"{name:52s}{case[2] / plain:9.1f} im/s{case[2] / ours:11.1f} im/s{plain / ours:7.2f}",
            flush=True,
        )
    before = recorded()
    if not options.busy:
        for name, ratio in ratios.items():
            if ratio < MARGIN * before.get(name, 0):
                print(f"slower than before: {name}: {ratio:.2f}, recorded {before[name]:.2f}")
        if not before:
            print("no ratios of this kind of processor are recorded: nothing to compare with")
    if options.record:
        row = {"hardware": hardware_class(), "threads": torch.get_num_threads(), **ratios}
        with HISTORY.open("a") as file:
            file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
