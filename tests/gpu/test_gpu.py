"""Test that a GPU gives the same results as the CPU.

Run by `make test-gpu`; other test targets leave these tests out.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from torch.nn.attention import SDPBackend, sdpa_kernel

from gear.core.device import pick_device
from gear.core.files import sha256_of
from gear.core.settings import PinnedFile
from gear.encoders.efficientnet import build_encoder
from gear.generator.config import SampleConfig
from gear.generator.sampling import sample
from gear.joint.recipes import RECIPES
from gear.joint.step import JointStep
from gear.losses.adversarial import PatchDiscriminator
from gear.losses.config import GanConfig
from gear.losses.perceptual import LpipsLoss
from gear.nn.dropout import Dropout, drawn_by_image
from gear.training.autoencoder import AutoencoderStep
from gear.training.batches import Batch
from gear.training.distributed import DistributedContext, join_process_group
from gear.training.engine import build_engine
from gear.training.step_meter import FlopCounter
from tests.distributed.accumulation import IMAGES, QUANTIZERS, STEPS, joint_step, weights
from tests.distributed.kill_matrix import difference, kill, twin
from tests.support.commands import gear, run_gear
from tests.support.joint import batch, models, small
from tests.support.plain_loop import plain_loop

pytestmark = pytest.mark.gpu
LR = 2e-4


@pytest.fixture(scope="module")
def world() -> DistributedContext:
    """Return a process group of this process alone, on a GPU."""
    context = join_process_group(small().host, seed=0)
    assert context.device.type == "cuda", "no GPU: run `make test`, which leaves these tests out"
    return context


def to(data: Batch, device: torch.device) -> Batch:
    tensors = {
        field.name: value.to(device)
        for field in dataclasses.fields(data)
        if isinstance(value := getattr(data, field.name), torch.Tensor)
    }
    return dataclasses.replace(data, **tensors)


def take_steps(step: JointStep, quantizer: str, device: torch.device) -> None:
    for number in range(STEPS):
        step(to(batch(small(quantizer), number, IMAGES), device), number)


@pytest.mark.parametrize("quantizer", QUANTIZERS)
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_joint_steps_are_those_of_a_plain_loop_on_the_cpu(
    world: DistributedContext, quantizer: str, stage: int
) -> None:
    """Test fp32: matrix products must not be rounded to TF32."""
    step = joint_step(quantizer, stage, 1, world)
    take_steps(step, quantizer, world.device)
    found = weights(step)
    tokenizer, guided = plain_loop(small(quantizer), STEPS, "gear", images=IMAGES, lr=LR)
    for name, module in (("tokenizer", tokenizer), ("guided", guided)):
        for key, value in module.named_parameters():
            torch.testing.assert_close(
                found[f"{name}.{key}"].cpu(), value.detach(), rtol=0, atol=2e-5
            )


def test_joint_steps_repeat_to_the_bit(world: DistributedContext) -> None:
    found = []
    for _ in range(2):
        step = joint_step("vq", 1, 1, world)
        take_steps(step, "vq", world.device)
        found.append(weights(step))
    assert all(torch.equal(found[0][key], found[1][key]) for key in found[0])


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_counting_flops_changes_no_bit(world: DistributedContext, stage: int) -> None:
    plain, counted = (joint_step("vq", stage, 1, world) for _ in range(2))
    take_steps(plain, "vq", world.device)
    with FlopCounter() as counter:
        take_steps(counted, "vq", world.device)
    expected, found = weights(plain), weights(counted)
    assert all(torch.equal(expected[key], found[key]) for key in expected)
    assert counter.total > 1e6


@pytest.fixture(scope="module")
def vgg16(tmp_path_factory: pytest.TempPathFactory) -> PinnedFile:
    """Save random VGG16 weights in torchvision's layout."""
    file = tmp_path_factory.mktemp("vgg16") / "vgg16.pth"
    features = torchvision.models.vgg16().features.state_dict()
    torch.save({f"features.{name}": value for name, value in features.items()}, file)
    return PinnedFile(path=str(file), sha256=sha256_of(file))


@pytest.mark.parametrize("recipe", [name for name in RECIPES if RECIPES[name].tokenizer_trains])
@pytest.mark.parametrize("quantizer", QUANTIZERS)
def test_every_operation_of_a_step_has_a_deterministic_kernel(
    world: DistributedContext, vgg16: PinnedFile, recipe: str, quantizer: str
) -> None:
    """Take the steps twice, in bf16 with all losses.

    Without a deterministic kernel PyTorch would raise, or the weights would differ.
    """
    assert not torch.is_deterministic_algorithms_warn_only_enabled()
    config = small(quantizer)
    judge = GanConfig(start_step=0, filters=8, lecam=0.1)
    found = []
    for _ in range(2):
        step = joint_step(quantizer, 1, 1, world, recipe=recipe)
        torch.manual_seed(3)
        discriminator = PatchDiscriminator(judge.filters, judge.layers)
        autoencoder = AutoencoderStep(
            step.autoencoder.tokenizer,
            step.autoencoder.engine,
            config.loss,
            judge,
            bf16=True,
            perceptual=LpipsLoss(vgg16).to(world.device),
            discriminator_engine=build_engine(
                discriminator, config.train, world, lr=LR, batch=IMAGES
            ),
        )
        step.autoencoder, step.bf16 = autoencoder, True
        take_steps(step, quantizer, world.device)
        found.append(weights(step))
    assert all(torch.equal(found[0][key], found[1][key]) for key in found[0])


def test_dropout_of_an_image_is_the_same_in_any_batch(world: DistributedContext) -> None:
    layer = Dropout(0.3).train()
    ones = torch.ones(4, 50, device=world.device)
    with drawn_by_image([3, 1, 4, 1]):
        whole = layer(ones)
    with drawn_by_image([4, 1]):
        half = layer(ones[:2])
    assert torch.equal(whole[2:], half)
    assert torch.equal(whole[1], whole[3])
    assert not torch.equal(whole[0], whole[1])


@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_samples_do_not_depend_on_their_batch(world: DistributedContext, guidance: float) -> None:
    _, guided = models(small())
    generator = guided.generator.to(world.device).eval()
    settings = SampleConfig(guidance=guidance)
    labels, seeds = torch.arange(6) % 3, np.arange(6)
    with torch.inference_mode():
        together = sample(generator, labels, seeds, settings)
        alone = torch.cat(
            [sample(generator, labels[i : i + 1], seeds[i : i + 1], settings) for i in range(6)]
        )
    assert (together == alone).float().mean() > 0.95  # rounding depends on the batch size


def test_features_and_tokens_are_those_of_the_cpu(world: DistributedContext) -> None:
    images = batch(small(), 0, 8).images()
    encoder, (tokenizer, _) = build_encoder(), models(small())
    on_cpu = encoder(images, 64), tokenizer.eval().encode(images).indices
    on_gpu = (
        encoder.to(world.device)(images.to(world.device), 64),
        tokenizer.to(world.device).encode(images.to(world.device)).indices,
    )
    torch.testing.assert_close(on_gpu[0].cpu(), on_cpu[0], rtol=1e-4, atol=1e-4)
    assert torch.equal(on_gpu[1].cpu(), on_cpu[1])


@pytest.fixture
def flash_only() -> Iterator[None]:
    """Fail if attention falls back to the kernel that stores the whole matrix."""
    with sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION]):
        yield


def test_training_attends_with_a_fused_kernel(world: DistributedContext, flash_only: None) -> None:
    _, guided = models(small())
    guided = guided.to(world.device)
    data = to(batch(small(), 0, 4), world.device)
    indices = torch.zeros(4, small().grid ** 2, dtype=torch.int64, device=world.device)
    with torch.autocast("cuda", torch.bfloat16):
        output, _ = guided(indices, data.condition)
    output.logits.float().sum().backward()


@pytest.mark.parametrize("stage", ["tokenizer", "joint"])
def test_a_killed_training_ends_as_an_uninterrupted_one(
    prepared: Path, tmp_path: Path, stage: str
) -> None:
    """Test kills at random moments; the final model must be bitwise the same."""
    import random

    assert pick_device(small().host).type == "cuda"
    moments = random.Random(0)
    whole = twin(prepared, tmp_path / "whole", stage, 1)
    gear(whole, stage)
    assert difference(whole, prepared, stage) == 0.0  # two uninterrupted runs are equal
    for number in range(3):
        cwd = twin(prepared, tmp_path / f"killed-{number}", stage, 1)
        kill(cwd, stage, number % 2 == 0, moments)
        done = run_gear(cwd, stage)
        assert done.returncode == 0, done.stderr[-2000:]
        assert difference(cwd, whole, stage) == 0.0
