"""Test `gear plan` at ImageNet scale against counts by hand, and a step at the width of XL."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from gear import paths
from gear.cli import main
from gear.commands import estimate as plan
from gear.commands.plan_table import disk_lines
from gear.commands.plan_table import plan as table
from gear.data.shards import VALIDATION_IMAGES
from gear.encoders.teacher_features import cache_bytes
from gear.params import load_preset
from gear.tokenizer.model import Tokenizer
from gear.training.autoencoder import AutoencoderStep
from gear.training.batches import Batch
from gear.training.checkpoint_manager import CheckpointManager
from gear.training.config import TrainConfig
from gear.training.distributed import DistributedContext
from gear.training.ema import EMA
from gear.training.engine import build_engine, update_weights
from gear.training.step_meter import FlopCounter
from tests.support.repo import REPO
from tests.support.settings import tiny_settings, write_params


@pytest.mark.parametrize(
    ("name", "millions"),
    [("imagenet256-b", 110.9), ("imagenet256-l", 342.9), ("imagenet256-xl", 774.7)],
)
def test_parameters_and_flops_match_a_count_by_hand(name: str, millions: float) -> None:
    config = load_preset(name)
    parts = {part.name: part for part in plan.measure(config)}
    assert parts["generator"].parameters / 1e6 == pytest.approx(millions, abs=0.05)
    g, tokens, codes = config.generator, config.grid**2, config.tokenizer.codes
    hidden = 256 * -(-(8 * g.width // 3) // 256)
    block = 2 * tokens * (4 * g.width**2 + 3 * g.width * hidden) + 4 * tokens**2 * g.width
    head = 2 * tokens * g.width * codes
    p = g.projector_hidden
    projector = (
        2
        * tokens
        * (
            g.width * p
            + p * p
            + p * sum(plan.TEACHER_WIDTHS.get(e.name, 768) for e in config.teacher.encoders)
        )
    )
    hard = 3 * (g.layers * block + head + projector)
    soft = 2 * (g.tap * block + projector + head)  # mixing embeddings costs as much as the head
    assert parts["generator"].flops == pytest.approx(hard + soft, rel=0.01)


def test_the_text_to_image_generator_is_of_one_billion_parameters() -> None:
    config = load_preset("t2i-1b")
    g, text = config.generator, 2048  # Qwen3-1.7B's width
    hidden = 256 * -(-(8 * g.width // 3) // 256)
    block = 4 * g.width**2 + 3 * g.width * hidden + 2 * g.width
    second_stream = 4 * g.width**2 + 2 * g.width
    caption = (text + 1) * g.width + (g.width + 1) * g.width
    wanted = (
        g.layers * block
        + g.layers // 3 * second_stream
        + caption
        + 2 * config.tokenizer.codes * g.width
        + g.width
    )
    (generator,) = (part for part in plan.measure(config) if part.name == "generator")
    assert generator.parameters == wanted
    assert wanted / 1e9 == pytest.approx(1.0, abs=0.05)


def test_zero_splits_what_it_says() -> None:
    parts = [plan.Part("tokenizer", 100, False, 0, 0), plan.Part("generator", 1000, True, 0, 0)]
    sums = [plan.model_states(parts, stage, gpus=4)[0] for stage in range(4)]
    assert sums == [
        16_400,
        4000 + 4000 + 1000 + 2000 + 400,
        4000 + 1000 + 1000 + 2000 + 400,
        1000 + 1000 + 1000 + 2000 + 400,
    ]
    assert plan.model_states(parts, 1, gpus=4) == (4000 + 4000 + 1000 + 2000 + 400, 4000)
    assert plan.model_states(parts, 3, gpus=4)[1] == 1000
    assert plan.model_states(parts, 2, gpus=4, offload=True)[0] == 4000 + 1000 + 400


@pytest.mark.parametrize("stage", range(4))
def test_a_saved_state_has_the_size_that_is_planned(
    world: DistributedContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: int
) -> None:
    monkeypatch.setattr(F, "linear", F.linear)  # undo what DeepSpeed replaces at ZeRO-3
    module = torch.nn.Linear(512, 512)
    train = TrainConfig(bf16=False)
    engine = build_engine(module, train, world, lr=0.1, batch=1, zero_stage=stage)
    average = EMA(engine.module, 0.9)
    update_weights(engine, engine(torch.ones(1, 512)).sum(), "module", [])
    work = CheckpointManager(tmp_path, world)
    work.save({"module": engine}, {"step": 1, "averages": {"module": average.weights}})
    work.close()
    size = sum(file.stat().st_size for file in (tmp_path / "step-1").rglob("*.pt"))
    planned = plan.saved_bytes([plan.Part("module", 512 * 513, True, 0, 0)], stage)
    assert size == pytest.approx(planned, rel=0.02)


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_zero_holds_a_copy_of_the_weights_that_it_updates(
    world: DistributedContext, monkeypatch: pytest.MonkeyPatch, stage: int
) -> None:
    monkeypatch.setattr(F, "linear", F.linear)
    module = torch.nn.Linear(512, 512)
    engine = build_engine(module, TrainConfig(), world, lr=0.1, batch=1, zero_stage=stage)
    if stage == 3:
        (updated,) = engine.optimizer.fp32_partitioned_groups_flat
        weights = [value.ds_tensor for value in module.parameters()]
    else:
        (updated,) = engine.optimizer.single_partition_of_fp32_groups
        weights = [*module.parameters()]
    storages = {value.untyped_storage().data_ptr() for value in weights}
    assert updated.dtype == torch.float32
    assert updated.untyped_storage().data_ptr() not in storages


@pytest.mark.parametrize(
    ("preset", "measured"), [("imagenet256-b", 48.7), ("imagenet256-xl", 67.9)]
)
def test_the_memory_of_a_step_is_what_a_gpu_allocated(preset: str, measured: float) -> None:
    """Test against GiB on an H100 for 32 images, without discriminator and checkpointing.

    The plan is the sum of what the updates of a step hold, which is not held all at once.
    """
    config = load_preset(preset)
    host = config.host.model_copy(update={"activation_checkpointing": False})
    config = config.model_copy(update={"host": host})
    parts = [part for part in plan.measure(config) if part.name != "discriminator"]
    expected = sum(plan.model_states(parts, 1, gpus=1)) + 32 * plan.kept_bytes(config, parts)
    assert measured <= expected / plan.GIB <= 1.1 * measured


def test_the_table_and_its_errors(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(REPO)
    assert main(["plan", "--preset", "imagenet256-xl", "--gpus", "8", "--tflops", "200"]) == 0
    text = capsys.readouterr().out
    assert "774.7 M" in text
    assert "ZeRO-3" in text
    assert "1281167 training images (as many as ImageNet has" in text
    assert "400000 joint steps: 58 h " in text
    assert main(["plan", "--preset", "imagenet256-xl", "--gpus", "7"]) == 2
    assert "joint.batch 256 does not divide" in capsys.readouterr().err
    assert main(["plan", "--preset", "nothing"]) == 2


def test_the_images_are_those_of_the_shards_unless_told_otherwise(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    write_params(tmp_path, tiny_settings())
    manifest = {"train": 1445, "val": 158, "size": 32, "classes": []}
    paths.SHARDS.mkdir(parents=True)
    (paths.SHARDS / "manifest.json").write_text(json.dumps(manifest))
    for words, line in (
        ([], "1445 training images (data/shards)"),
        (["--images", "77"], "77 training images (--images)"),
        (["--preset", "tiny"], "1281167 training images (as many as ImageNet has"),
    ):
        assert main(["plan", "--gpus", "1", *words]) == 0
        assert line in capsys.readouterr().out


@pytest.mark.slow
def test_a_joint_step_of_xl_width_runs() -> None:
    """Test shapes at scale: two XL blocks, full tokenizer, 256 px and 16384 codes, on CPU."""
    from gear.generator.transformer import Generator
    from gear.joint.alignment import Projector
    from gear.joint.model import GuidedGenerator
    from gear.joint.recipes import RECIPES
    from gear.joint.step import JointStep
    from gear.training.distributed import join_process_group

    base = load_preset("imagenet256-xl")
    config = base.model_copy(
        update={"generator": base.generator.model_copy(update={"layers": 2, "tap": 1})}
    )
    world = join_process_group(config.host, config.run.seed)
    tokenizer = Tokenizer(config.tokenizer)
    generator = Generator(config.generator, codes=16384, grid=16, classes=1000)
    guided = GuidedGenerator(generator, Projector(1280, 2048, (768,)))
    engine = build_engine(tokenizer, config.train, world, lr=1e-4, batch=1)
    bf16 = config.train.bf16
    step = JointStep(
        RECIPES["gear"],
        config.joint,
        build_engine(guided, config.train, world, lr=1e-4, batch=1),
        bf16=bf16,
        autoencoder=AutoencoderStep(tokenizer, engine, config.loss, config.gan, bf16=bf16),
        temperature=0.1,
    )
    losses, indices = step(
        Batch(
            torch.rand(1, 3, 256, 256) * 2 - 1, torch.tensor([7]), torch.randn(1, 256, 768), ["x"]
        ),
        0,
    )
    assert indices.shape == (1, 256)
    # log 16384, as the head is initialised to zero
    assert losses["loss/ntp"].item() == pytest.approx(9.704, abs=0.01)


def test_the_plan_says_how_a_run_fits_the_machine(capsys: pytest.CaptureFixture[str]) -> None:
    """Test the micro-batch, the teacher cache and the disk space against their formulas."""
    config = load_preset("imagenet256-b")
    parts = plan.measure(config)
    fixed = sum(plan.model_states(parts, 1, gpus=1))
    each = plan.kept_bytes(config, parts)
    assert main(["plan", "--preset", "imagenet256-b", "--gpus", "1", "--memory", "40"]) == 0
    lines = capsys.readouterr().out.splitlines()
    (line,) = [line for line in lines if line.startswith("host.micro_batch")]
    size = int(line.split()[1].rstrip(","))
    assert fixed + size * each <= 0.85 * 40 * 2**30 < fixed + 2 * size * each
    assert f"{256 // size} parts a step" in line
    (line,) = [line for line in lines if line.startswith("teacher features")]
    assert f"{1_281_167 * 2 * 256 * 768 * 2 / 2**30:.3g} GiB, computed in every step" in line
    assert main(["plan", "--preset", "imagenet256-b", "--gpus", "8", "--images", "50000"]) == 0
    assert "cached on disk (up to 64 GiB)" in capsys.readouterr().out
    assert main(["plan", "--preset", "imagenet256-b", "--gpus", "1", "--memory", "2"]) == 0
    assert "not one image fits 2 GiB" in capsys.readouterr().out


def test_parts_of_a_step_cost_one_more_pass_of_the_tokenizer(world: DistributedContext) -> None:
    config = load_preset("tiny", {"loss": {"vgg16": {"path": "", "sha256": ""}}})
    torch.manual_seed(0)
    tokenizer = Tokenizer(config.tokenizer)
    train = TrainConfig(bf16=False)
    engine = build_engine(tokenizer, train, world, lr=1e-4, batch=4, accumulation=2)
    step = AutoencoderStep(tokenizer, engine, config.loss, config.gan, bf16=False)
    size = config.data.size
    batch = Batch(torch.rand(4, 3, size, size) * 2 - 1, None, None, list("abcd"))
    halves = batch.micro_batches(2)
    with FlopCounter() as measured:
        step.measure_batch(halves, 0)
    with FlopCounter() as steps:
        for half in halves:
            step(half, 0)
    planned = plan.warm_up_flops(config, parts=2) / plan.warm_up_flops(config, parts=1)
    assert planned == pytest.approx((measured.total + steps.total) / steps.total, rel=0.03)
    without = load_preset("tiny", {"loss": {"entropy": 0.0}})
    assert plan.whole_batch_flops(without, without.tokenizer.steps) == 0


def test_lpips_costs_three_passes_of_vgg16() -> None:
    network = plan.perceptual_network(load_preset("imagenet256-b"))
    assert network is not None
    forward = 2 * 15.3e9 * (256 / 224) ** 2  # VGG16's published multiply-adds at 224 px
    assert network.flops == pytest.approx(3 * forward, rel=0.02)
    assert plan.perceptual_network(load_preset("tiny")) is None


def test_the_loader_s_rates_are_images_over_the_seconds_of_each_stage() -> None:
    config = load_preset("imagenet256-b")
    options = {"gpus": 8, "tflops": 105.0, "memory": 80.0, "images": 1_281_167, "source": ""}
    lines = table(config, **options).splitlines()
    (line,) = [line for line in lines if line.startswith("loader:")]
    (time,) = [line for line in lines if "steps of stage 2:" in line]
    hours, minutes = (int(word) for word in re.findall(r"(\d+) h (\d+) min", time)[0])
    images = config.joint.batch * config.generator.steps
    rate = int(re.findall(r"stage 2 (\d+) images/s", line)[0])
    assert rate == pytest.approx(images / (3600 * hours + 60 * minutes), rel=0.01)
    cached = table(config, **{**options, "images": 50_000})
    assert not [x for x in cached.splitlines() if x.startswith("loader:") and "stage 2" in x]


def test_features_of_at_most_1024_validation_images_are_on_the_disk() -> None:
    config = load_preset("imagenet256-b")
    widths = sum(plan.teacher_widths(config))
    for images, validation in ((1_281_167, VALIDATION_IMAGES), (5000, 200)):
        line, _ = disk_lines(config, [], images, 0)
        size = cache_bytes(validation, 1, config.grid, widths) / plan.GIB
        assert f"features of validation images {size:.3g}," in line


def test_checkpointing_keeps_the_inputs_of_blocks() -> None:
    config = load_preset("imagenet256-b")
    parts = plan.measure(config)
    host = config.host.model_copy(update={"activation_checkpointing": True})
    saved = plan.kept_bytes(config, parts) - plan.kept_bytes(
        config.model_copy(update={"host": host}), parts
    )
    (kept,) = (part.kept for part in parts if part.name == "generator")
    assert saved == pytest.approx(kept * 11 / 12 - 2 * 12 * 256 * 768)


def test_the_plan_says_that_compiled_steps_are_not_counted() -> None:
    config = load_preset("tiny")
    compiled = load_preset("tiny", {"host": {"compile": True}})
    options = {"gpus": 1, "tflops": 1.0, "memory": 80.0, "images": 1000, "source": "--images"}
    (line,) = set(table(compiled, **options).splitlines()) - {
        *table(config, **options).splitlines()
    }
    assert line.startswith("host.compile: not counted")
