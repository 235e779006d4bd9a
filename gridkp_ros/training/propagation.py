"""Stage 2 of the paper's propagation ablation: `nets.propagation`, teacher-forced like `DynamicsStage`."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gridkp_ros.nets import keypoints as kp
from gridkp_ros.nets.gridkp import Dynamics
from gridkp_ros.nets.propagation import GaussianPropagation, VectorPropagation
from gridkp_ros.training import losses
from gridkp_ros.training.config import Stage2Config
from gridkp_ros.training.stages import DynamicsStage, Stage, errors_in_cells


class PropagationStage(Stage):
    """Squared error in place of cross-entropy; KL term, best of `best_of` latents and true inputs as in stage 2.

    The squared error is that of cells ("vector") or of maps ("gaussian"), halved, averaged over frames and keypoints.
    """

    number = 2

    def __init__(self, dynamics: GaussianPropagation | VectorPropagation, options: Stage2Config, seed: int) -> None:
        super().__init__(options, seed)
        self.dynamics = dynamics

    def clipped_modules(self) -> list[nn.Module]:
        return list(self.dynamics.parts)

    def pixels(self, classes: Tensor) -> Tensor:
        return kp.classes_to_pixels(classes, self.dynamics.config.width)

    def losses(self, classes: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """classes: true cells, int64 [B,T,K]."""
        o, d = self.options, self.dynamics
        b, t, _ = classes.shape
        true = d.represent(self.pixels(classes).flatten(0, 1))  # [B*T, K, ...]
        encoded, seen = (x.unflatten(0, (b, t)) for x in (d.encode_maps(true), d.posterior_maps(true)))
        true = true.unflatten(0, (b, t))
        h, c = d.initial_state(b, true)
        before, latents, posteriors = [], [], []
        for i in range(t):
            q = d.posterior(h, seen[:, i])
            z = self.best_latent(h, *q, true[:, i], generator)
            before.append(h)
            latents.append(z)
            posteriors.append(q)
            h, c = d.step(h, c, encoded[:, i], z)
        all_h = torch.stack(before, dim=1)  # [B, T, ...]
        predicted = d.predict(all_h.flatten(0, 1), torch.stack(latents, dim=1).flatten(0, 1))
        q = tuple(torch.stack(x, dim=1)[:, 1:].flatten(0, 1) for x in zip(*posteriors, strict=True))
        p = d.prior(all_h[:, 1:].flatten(0, 1))
        values = {
            "squared_error": d.error(predicted, true.flatten(0, 1)).mean(),
            "kl": losses.gaussian_kl(q, p) if o.kl_direction == "posterior_prior" else losses.gaussian_kl(p, q),
        }
        values["loss"] = values["squared_error"] + o.beta * values["kl"]
        return values

    def best_latent(self, h: Tensor, mean: Tensor, std: Tensor, true: Tensor, generator: torch.Generator) -> Tensor:
        """Draw `best_of` latents and keep, for each clip, the one that explains its keypoints best."""
        n, b = self.options.best_of, len(h)
        z = mean + std * self.drawn(torch.randn, (n, *mean.shape), generator, clips=1)
        if n == 1:
            return z[0]
        with torch.no_grad():
            predicted = self.dynamics.predict(h.repeat(n, *[1] * (h.dim() - 1)), z.flatten(0, 1))
            cost = self.dynamics.error(predicted, true.repeat(n, *[1] * (true.dim() - 1))).sum(dim=-1)
            best = cost.unflatten(0, (n, b)).argmin(dim=0)
        return z[best, torch.arange(b, device=h.device)]

    def learn(self, batch: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        return self.losses(batch["classes"], generator)

    def check(self, batch: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        return self.learn(batch, generator) | self.horizon_errors(batch["classes"])

    @torch.no_grad()
    def horizon_errors(self, classes: Tensor) -> dict[str, Tensor]:
        """Error in cells of the central future after half of the clip was observed, beside that of staying put."""
        d, truth = self.dynamics, self.pixels(classes)
        seen = truth.shape[1] // 2
        state, ahead = d.initial_state(len(truth), truth), []
        for i in range(truth.shape[1]):
            if i < seen:
                z, _ = d.posterior(state[0], d.posterior_maps(d.represent(truth[:, i])))
            else:
                z, _ = d.prior(state[0])
                ahead.append(d.locate(d.predict(state[0], z)))
            state = d.step(*state, d.encode_maps(d.represent(truth[:, i] if i < seen else ahead[-1])), z)
        futures = {"": torch.stack(ahead, dim=1), "_stays_put": truth[:, seen - 1 : seen]}
        return errors_in_cells(futures, truth[:, seen:])


def stage2_of(dynamics: nn.Module, options: Stage2Config, seed: int) -> Stage:
    """Stage 2 for the way a model propagates keypoints."""
    plain = isinstance(dynamics, Dynamics) and not isinstance(dynamics, GaussianPropagation)
    return (DynamicsStage if plain else PropagationStage)(dynamics, options, seed)
