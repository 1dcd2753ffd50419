"""Adam with separate moments per phase.

The published procedure has one Adam over E and G and another over E for the adversary phase, so E's parameters have two
sets of moments. One optimiser that keeps them apart equals those separate Adams, and unlike them it can be wrapped once
by Accelerate whatever the distribution: two DeepSpeed engines that share parameters would train wrongly. So plain, data
parallel and DeepSpeed training have this one path; beside separate fused Adams it costs nothing that can be measured
(tests/benchmarks/test_training_speed.py holds it to 3 % of a step).
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from harness.compat import LeanOptimizer, functional_adam


class PhasedAdam(LeanOptimizer):
    """Set `.phase` before `step()`, which then updates that phase's parameters with that phase's moments.

    Under ZeRO a group's parameters are one flat partition, and everything here holds for it as for a parameter.

    Args: phases: the parameters of each phase; learning_rate, betas, weight_decay: for all of them. `decoupled`: the
        decay is AdamW's (Loshchilov & Hutter 2019), else a term of the gradient. The rest are PyTorch's defaults for
        Adam (Kingma & Ba 2015).
    """

    def __init__(
        self,
        phases: dict[str, list[nn.Parameter]],
        learning_rate: float,
        betas: tuple[float, float] = (0.9, 0.999),
        weight_decay: float = 0.0,
        *,
        decoupled: bool = False,
    ) -> None:
        membership: dict[nn.Parameter, list[str]] = {}
        for phase, parameters in phases.items():
            for parameter in parameters:
                membership.setdefault(parameter, []).append(phase)
        groups: dict[tuple[str, ...], list[nn.Parameter]] = {}
        for parameter, names in membership.items():
            groups.setdefault(tuple(names), []).append(parameter)
        super().__init__(
            [{"params": parameters, "phases": names} for names, parameters in groups.items()],
            {"lr": learning_rate, "betas": betas, "eps": 1e-8, "weight_decay": weight_decay, "decoupled": decoupled},
        )
        self.phase = next(iter(phases))

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        groups = [group for group in self.param_groups if self.phase in group["phases"]]
        parameters = [p for group in groups for p in group["params"] if p.grad is not None]
        if not parameters:
            return
        states = [self._moments(p) for p in parameters]
        setting = groups[0]  # which they share
        functional_adam(
            parameters,
            [p.grad for p in parameters],
            [state[f"{self.phase}/exp_avg"] for state in states],
            [state[f"{self.phase}/exp_avg_sq"] for state in states],
            [],
            [state[f"{self.phase}/step"] for state in states],
            fused=True,
            grad_scale=getattr(self, "grad_scale", None),
            found_inf=getattr(self, "found_inf", None),
            amsgrad=False,
            beta1=setting["betas"][0],
            beta2=setting["betas"][1],
            lr=setting["lr"],
            weight_decay=setting["weight_decay"],
            eps=setting["eps"],
            maximize=False,
            decoupled_weight_decay=setting["decoupled"],
        )

    def _moments(self, parameter: Tensor) -> dict[str, Tensor]:
        # Flat keys, one dict a parameter: what ZeRO expects to shard.
        state = self.state[parameter]
        if f"{self.phase}/step" not in state:
            state[f"{self.phase}/step"] = torch.zeros((), dtype=torch.float32, device=parameter.device)
            state[f"{self.phase}/exp_avg"] = torch.zeros_like(parameter)
            state[f"{self.phase}/exp_avg_sq"] = torch.zeros_like(parameter)
        return state
