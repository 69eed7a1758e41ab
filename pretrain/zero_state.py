"""The whole state of a run whose parts DeepSpeed keeps in many processes, and back.

For: weights and AdamW's state by parameter, in the form that PyTorch's own optimizer saves, so
that any number of devices can go on from it. Not for: writing files.

All functions that gather are collective calls: every process makes them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

_MOMENTS = ("exp_avg", "exp_avg_sq")


def gather_weights(module: nn.Module, *, keep: bool) -> dict[str, Tensor]:
    """The weights in fp32, on the CPU.

    Args:
        module: Whose parameters DeepSpeed has shared out.
        keep: Whether this process wants them; it takes part anyway, and returns nothing else.
    """
    from deepspeed.utils import safe_get_full_fp32_param

    weights = {}
    for name, parameter in module.named_parameters():
        value = safe_get_full_fp32_param(parameter)
        if keep:
            weights[name] = value.detach().to("cpu", copy=True)
    if keep:
        weights |= {name: value.detach().to("cpu", copy=True) for name, value in _buffers(module)}
    return weights


def gather_optimizer(engine: Any, module: nn.Module, *, keep: bool) -> dict[str, Any]:
    """The state of AdamW as one device would have it.

    Parameters are numbered as the optimizer's groups list them, which is how PyTorch does it; the
    groups are ``hicmae.parameters.parameter_groups``, in which every parameter has its name.

    Args:
        engine: DeepSpeed's.
        module: Its network.
        keep: Whether this process wants it.
    """
    from deepspeed.utils import safe_get_full_optimizer_state

    base = engine.optimizer.optimizer
    steps = [state["step"] for state in base.state.values() if "step" in state]
    taken = any(_everywhere(bool(steps)))
    _link_moments(engine.optimizer)
    parameters = dict(module.named_parameters())
    state: dict[int, dict[str, Any]] = {}
    groups, number = [], 0
    for group in base.param_groups:
        first = number
        for name in group["names"]:
            if taken:
                parameter = parameters[_PREFIX + name]
                moments = {key: safe_get_full_optimizer_state(parameter, key) for key in _MOMENTS}
                if keep:
                    state[number] = {
                        "step": torch.tensor(float(steps[0])),
                        **{key: value.to("cpu", copy=True) for key, value in moments.items()},
                    }
            number += 1
        settings = {key: value for key, value in group.items() if key != "params"}
        groups.append({**settings, "params": list(range(first, number))})
    scaler = engine.optimizer.loss_scaler
    whole = {"state": state, "param_groups": groups, "loss_scaler": _numbers(scaler)}
    return whole if keep else {}


def scatter_optimizer(engine: Any, module: nn.Module, checkpoint: Mapping[str, Any]) -> None:
    """Give each process its part of the whole state.

    Args:
        engine: DeepSpeed's, made from the weights of the checkpoint.
        module: Its network.
        checkpoint: Has ``state_dict`` and ``optimizer_states`` of one device.
    """
    whole = checkpoint["optimizer_states"][0]
    optimizer = engine.optimizer
    base = optimizer.optimizer
    for name, value in whole.get("loss_scaler", {}).items():
        setattr(optimizer.loss_scaler, name, value)
    by_name: dict[str, int] = {}
    for group in whole["param_groups"]:
        by_name.update(zip(group["names"], group["params"], strict=True))
    flat_parts = _flat_parts(optimizer)
    if whole["state"]:
        step = next(iter(whole["state"].values()))["step"]
        fused = bool(base.param_groups[0].get("fused"))
        for part in flat_parts:
            base.state[part] = {
                "step": torch.tensor(float(step), device=part.device if fused else "cpu"),
                **{key: torch.zeros_like(part) for key in _MOMENTS},
            }
        _link_moments(optimizer)
    for name, parameter in module.named_parameters():
        _set(parameter, checkpoint["state_dict"][name], None)
        state = whole["state"].get(by_name[name.removeprefix(_PREFIX)], {})
        for key in _MOMENTS:
            if key in state:
                _set(parameter, state[key], key)


# The module holds the network as ``model``; names in the optimizer's groups are the network's.
_PREFIX = "model."


def _set(parameter: nn.Parameter, value: Tensor, key: str | None) -> None:
    """Set this process's part of the fp32 weights (no key) or of a moment."""
    from deepspeed import utils

    if not hasattr(parameter, "ds_id"):  # stages 1 and 2
        value = value.to(parameter.device)
        if key is None:
            utils.safe_set_full_fp32_param(parameter, value)
        else:
            utils.safe_set_full_optimizer_state(parameter, value, key)
        return
    # Stage 3 cuts each parameter into equal parts, the last one padded.
    partition: Tensor = parameter.ds_tensor  # type: ignore[attr-defined]
    size, rank = partition.numel(), torch.distributed.get_rank()
    padded = torch.zeros(size * torch.distributed.get_world_size(), dtype=value.dtype)
    padded[: value.numel()] = value.flatten()
    own = padded[size * rank : size * (rank + 1)].to(partition.device)
    if key is None:
        utils.safe_set_local_fp32_param(parameter, own)
    else:
        utils.safe_set_local_optimizer_state(parameter, own, key)


def _link_moments(optimizer: Any) -> None:
    """Let parameters find their moments at stages 1 and 2.

    DeepSpeed does so once, when the first group has taken its first step and the others have none
    yet; their parameters then have no moments for good.
    """
    if hasattr(optimizer, "_lazy_init_hp_params_optimizer_state"):
        optimizer._hp_optimizer_states_linked = False
        optimizer._lazy_init_hp_params_optimizer_state()


def _flat_parts(optimizer: Any) -> list[Tensor]:
    """The flat fp32 tensors that the optimizer in this process updates."""
    stage3 = getattr(optimizer, "fp32_partitioned_groups_flat", None)
    return list(stage3 if stage3 is not None else optimizer.single_partition_of_fp32_groups)


def _buffers(module: nn.Module) -> list[tuple[str, Tensor]]:
    """What a state dict holds besides parameters."""
    names = {name for name, _ in module.named_parameters()}
    return [(name, value) for name, value in module.state_dict().items() if name not in names]


def _numbers(scaler: Any) -> dict[str, float | int | bool]:
    """The plain numbers that a loss scaler has learnt."""
    return {
        name: value for name, value in vars(scaler).items() if isinstance(value, bool | int | float)
    }


def _everywhere(flag: bool) -> list[bool]:
    """The flag of every process: one whose part is empty knows of no step."""
    flags: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(flags, flag)
    return flags
