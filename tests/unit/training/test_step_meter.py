"""Test the step meter: seconds by phase, true FLOPs, and steps that stay bitwise equal."""

from __future__ import annotations

import time
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from gear.training.step_meter import FlopCounter, StepMeter, peak_flops

CPU = torch.device("cpu")


def test_seconds_are_those_of_the_phases_of_a_mean_step() -> None:
    meter = StepMeter(CPU, None, recomputes=False)

    def slow() -> Any:
        for number in range(2):
            time.sleep(0.02)
            yield number

    began = time.perf_counter()
    for _ in meter.waiting(slow()):
        with meter.step():
            time.sleep(0.05)
    with meter.phase("save"):
        time.sleep(0.1)
    whole = time.perf_counter() - began
    row = meter.read({})
    assert row["time/data"] >= 0.02
    assert row["time/compute"] >= 0.05
    assert row["time/save"] >= 0.05
    assert row["time/measure"] == 0
    assert sum(value for name, value in row.items() if name.startswith("time/")) * 2 <= whole
    assert row["memory/peak_gib"] > 0.01
    assert "mfu" not in row
    assert "time/data" not in meter.read({})  # no step since the last reading


@pytest.mark.parametrize(("recomputes", "name"), [(False, "mfu"), (True, "hfu")])
def test_utilisation_is_of_the_flops_of_a_step_with_the_losses_of_now(
    recomputes: bool, name: str
) -> None:
    meter = StepMeter(CPU, 1e9, recomputes=recomputes)
    weight = torch.ones(30, 40, requires_grad=True)

    def step(rows: int, losses: tuple[str, ...]) -> None:
        with meter.step():
            (torch.ones(rows, 30) @ weight).sum().backward()
            time.sleep(0.01)
        meter.note_losses(losses)

    step(1, ("a",))
    assert name not in meter.read({})
    step(5, ("a",))  # counted: forward, and backward to the weights
    step(7, ("a",))
    assert meter.flops == 2 * (2 * 5 * 30 * 40)
    busy = meter.seconds["compute"] / 2
    assert meter.read({})[name] == pytest.approx(meter.flops / busy / 1e9)
    step(9, ("a", "b"))  # another loss joined: the next step is counted
    step(11, ("a", "b"))
    assert meter.flops == 2 * (2 * 11 * 30 * 40)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.out = nn.Conv2d(3, 16, 3), nn.GroupNorm(4, 16), nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.silu(self.norm(self.conv(x))).flatten(2).transpose(1, 2)
        return self.out(F.scaled_dot_product_attention(x, x, x, is_causal=True))


def test_counting_changes_no_bit_of_a_step() -> None:
    grown = []
    for counted in (False, True):
        torch.manual_seed(0)
        net = Net()
        optimizer = torch.optim.AdamW(net.parameters(), fused=True)
        for _ in range(3):
            with FlopCounter() if counted else torch.enable_grad():
                with torch.autocast("cpu", torch.bfloat16):
                    loss = net(torch.randn(2, 3, 8, 8)).float().square().mean()
                loss.backward()
                optimizer.step()
            optimizer.zero_grad()
        grown.append(list(net.parameters()))
    assert all(torch.equal(a, b) for a, b in zip(*grown, strict=True))


def test_flops_that_torch_cannot_count_leave_the_step_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from torch.utils.flop_counter import flop_registry

    def fail(*args: Any, **kwargs: Any) -> int:
        raise AssertionError("shapes")

    monkeypatch.setitem(flop_registry, torch.ops.aten.mm, fail)
    meter = StepMeter(CPU, 1e9, recomputes=False)
    meter.note_losses(["a"])
    with meter.step():
        product = torch.ones(2, 3) @ torch.ones(3, 4)
    assert product.sum() == 24
    assert "mfu" not in meter.read({})


@pytest.mark.parametrize(
    ("gpu", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H100 NVL", None),
        ("NVIDIA H200", 989e12),
        ("NVIDIA H200 NVL", None),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA A100-SXM-64GB", None),
        ("NVIDIA L4", 121e12),
        ("NVIDIA L40S", 362e12),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", None),
        ("NVIDIA A1000", None),
        ("Some GPU", None),
    ],
)
def test_a_peak_is_that_of_the_data_sheet_or_not_known(
    monkeypatch: pytest.MonkeyPatch, gpu: str, peak: float | None
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: gpu)
    assert peak_flops(torch.device("cuda"), bf16=True) == peak
    assert peak_flops(torch.device("cuda"), bf16=False) is None
    assert peak_flops(CPU, bf16=True) is None
