"""Load a training state that was saved with another number of ranks or another ZeRO stage.

DeepSpeed loads a state only into the layout that saved it. Here each parameter and its moments are
assembled from the files of all ranks, and every rank takes the part that its engine holds.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

MOMENTS = ("exp_avg", "exp_avg_sq")  # AdamW's, of each parameter
MODEL = "mp_rank_00_model_states.pt"
Tensors = dict[str, torch.Tensor]


def read_tensors(path: str | Path, map_location: Any = "cpu", *, mmap: bool = False) -> Any:
    """Load a file of DeepSpeed as tensors and plain values; no code in it is run."""
    from deepspeed.runtime.fp16.loss_scaler import LossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum
    from deepspeed.utils.tensor_fragment import fragment_address

    with torch.serialization.safe_globals([LossScaler, ZeroStageEnum, fragment_address]):
        return torch.load(path, map_location=map_location, weights_only=True, mmap=mmap)


@dataclass(frozen=True)
class WholeState:
    """Saved weights and AdamW state of a module, independent of the number of ranks.

    weights: full parameters and buffers, by name.
    pieces: flat pieces of each parameter's moments, by moment and name; joined, they are complete.
    updates: optimizer steps taken; if 0, as before the discriminator joins, there are no moments.
    """

    weights: Tensors
    pieces: dict[str, dict[str, list[torch.Tensor]]]
    updates: float

    def moment(self, key: str, name: str) -> torch.Tensor:
        """Return a moment of a parameter, flattened; key: one of `MOMENTS`."""
        return torch.cat(self.pieces[key][name])


def read_whole_state(folder: Path, module: nn.Module, *, ranks: int, zero_stage: int) -> WholeState:
    """Return what an engine of `module` saved to a folder, on the CPU.

    ranks, zero_stage: those of the run that saved it.

    Raises:
        KeyError, OSError, RuntimeError: if files are absent, damaged or of another module.
    """
    if zero_stage == 3:
        return _of_stage_3(folder, ranks)
    saved = read_tensors(folder / MODEL, mmap=True)
    if zero_stage == 0:
        states = saved["optimizer"]["state"]
        if not states:
            return WholeState(saved["module"], {}, 0.0)
        names = [name for name, _ in module.named_parameters()]
        whole = {name: states[number] for number, name in enumerate(names)}
        pieces = {
            key: {name: [state[key].flatten()] for name, state in whole.items()} for key in MOMENTS
        }
        return WholeState(saved["module"], pieces, float(whole[names[0]]["step"]))
    pieces = {key: defaultdict(list) for key in MOMENTS}
    updates = 0.0
    for optimizer in _optimizers(folder, ranks):
        if not optimizer["base_optimizer_state"]["state"]:
            return WholeState(saved["module"], {}, 0.0)
        (state,) = optimizer["base_optimizer_state"]["state"].values()
        updates = float(state["step"])
        (places,) = optimizer["param_slice_mappings"]
        for name, place in places.items():  # pieces of consecutive ranks are adjacent
            for key in MOMENTS:
                pieces[key][name].append(state[key].narrow(0, place.start, place.numel))
    return WholeState(saved["module"], pieces, updates)


def _of_stage_3(folder: Path, ranks: int) -> WholeState:
    """Read a state of ZeRO-3: each parameter in equal parts, one a rank, padded at the end."""
    saved = read_tensors(folder / f"zero_pp_rank_0_{MODEL}", mmap=True)
    shapes = {name: shape for group in saved["param_shapes"] for name, shape in group.items()}
    weights = {
        name: saved["module"][name] for name in saved["buffer_names"] if name in saved["module"]
    }
    groups: dict[str, list[list[torch.Tensor]]] = {key: [] for key in ("weight", *MOMENTS)}
    updates = 0.0
    for optimizer in _optimizers(folder, ranks):
        states = optimizer["optimizer_state_dict"]["state"]
        groups["weight"].append(list(optimizer["fp32_flat_groups"]))
        if states:
            updates = float(states[0]["step"])
            for key in MOMENTS:
                groups[key].append([states[number][key] for number in sorted(states)])
    pieces: dict[str, dict[str, list[torch.Tensor]]] = {key: {} for key in MOMENTS}
    start = 0
    for name, shape in shapes.items():
        count, size = shape.numel(), math.ceil(shape.numel() / ranks)
        own = [min(size, max(0, count - rank * size)) for rank in range(ranks)]  # without padding

        def cut(key: str, start: int = start, own: list[int] = own) -> list[torch.Tensor]:
            return [_cut(one, start, length) for one, length in zip(groups[key], own, strict=True)]

        weights[name] = torch.cat(cut("weight")).view(shape)
        for key in MOMENTS if updates else ():
            pieces[key][name] = cut(key)
        start += size
    return WholeState(weights, pieces, updates)


def _cut(groups: list[torch.Tensor], start: int, length: int) -> torch.Tensor:
    """Return a view of `length` elements at offset `start` of the concatenated groups.

    The range lies within one group. Nothing is read from the disk yet.
    """
    for group in groups:
        if start < group.numel():
            return group.view(-1).narrow(0, start, length)
        start -= group.numel()
    raise RuntimeError("a parameter lies behind the end of what was saved")


def _optimizers(folder: Path, ranks: int) -> Iterator[dict[str, Any]]:
    for rank in range(ranks):
        file = folder / f"zero_pp_rank_{rank}_mp_rank_00_optim_states.pt"
        state: dict[str, Any] = read_tensors(file, mmap=True)["optimizer_state_dict"]
        yield state


@dataclass(frozen=True)
class _Fragment:
    """A piece of a parameter that this rank's optimizer holds, `length` elements.

    flat, offset: the optimizer's own flat parameter, and the offset of the piece in it.
    name, start: the module's parameter, and the offset of the piece in it, flattened.
    """

    flat: torch.Tensor
    offset: int
    name: str
    start: int
    length: int


def load_whole_state(engine: Any, state: WholeState) -> None:
    """Load weights, moments and the step count into an engine, on each rank its part of them.

    Raises:
        KeyError, RuntimeError: if the state is of another module.
    """
    module, stage = engine.module, engine.zero_optimization_stage()
    if stage == 3:
        _load_gathered(module, state.weights)
    else:
        module.load_state_dict(state.weights)
    if stage > 0:
        engine.optimizer.refresh_fp32_params()
    if not state.updates:
        return
    states: dict[torch.Tensor, dict[str, torch.Tensor]] = {}
    for fragment in _fragments(engine):
        if fragment.flat not in states:
            states[fragment.flat] = {
                "step": torch.tensor(state.updates, device=fragment.flat.device),
                **{key: torch.zeros_like(fragment.flat) for key in MOMENTS},
            }
        for key in MOMENTS:
            whole = state.moment(key, fragment.name)
            mine = whole.narrow(0, fragment.start, fragment.length)
            own = states[fragment.flat][key].view(-1)
            own.narrow(0, fragment.offset, fragment.length).copy_(mine)
    engine.basic_optimizer.state.update(states)


def _load_gathered(module: nn.Module, weights: Tensors) -> None:
    import deepspeed

    saved = module.state_dict().keys()  # without non-persistent buffers
    for name, buffer in module.named_buffers():
        if name in saved:
            buffer.copy_(weights[name])
    for name, parameter in module.named_parameters():
        with deepspeed.zero.GatheredParameters([parameter], modifier_rank=0), torch.no_grad():
            parameter.copy_(weights[name])


def _fragments(engine: Any) -> Iterator[_Fragment]:
    stage = engine.zero_optimization_stage()
    optimizer = engine.optimizer
    for name, parameter in engine.module.named_parameters():
        if stage == 0:
            yield _Fragment(parameter, 0, name, 0, parameter.numel())
        elif stage == 3:
            group, offset, size = optimizer.grad_position[optimizer.get_param_id(parameter)]
            start = size * engine.global_rank
            length = min(size, parameter.ds_numel - start)
            if length > 0:  # else there is padding only
                flat = optimizer.fp32_partitioned_groups_flat[group]
                yield _Fragment(flat, offset, name, start, length)
        elif parameter._hp_mapping is not None:  # else another rank holds it
            mapping = parameter._hp_mapping
            (flat,) = optimizer.single_partition_of_fp32_groups
            place, own = mapping.get_hp_fragment_address(), mapping.lp_fragment_address
            yield _Fragment(flat, place.start, name, own.start, place.numel)
