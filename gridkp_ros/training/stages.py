"""The parts of training as Lightning modules. Shapes: B clips, T frames, K keypoints, M named points."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial

import lightning
import numpy as np
import torch
from torch import Tensor, nn

from gridkp_ros.nets import fast
from gridkp_ros.nets import keypoints as kp
from gridkp_ros.nets.fast import UnrolledDynamics
from gridkp_ros.nets.gridkp import Dynamics, MotionPrior, Vision
from gridkp_ros.training import losses, strips
from gridkp_ros.training.config import (
    MotionConfig,
    OptimiserConfig,
    Stage1Config,
    Stage2Config,
    SynthesisConfig,
    TrainingError,
)

STATED_STEPS = (2, 5, 10, 15)  # whose errors are stated in validation


def to_float(frames: Tensor) -> Tensor:
    """Bytes 0..255 to the networks' range [-0.5, 0.5]."""
    return frames.float() / 255.0 - 0.5


class Stage(lightning.LightningModule):
    """What all stages share: Adam, the schedule, gradient clipping for each module by itself, seeded noise.

    A step's batch is cut into equal parts for several processes and for accumulation. Random numbers are drawn for the
    whole batch and each part takes those of its own clips, so that it does not matter how many parts there are.

    A stage answers three questions beside `clipped_modules`: `learn`, the losses of a batch; `check`, the figures of a
    batch in validation (by default the same); `strip`, a picture for TensorBoard (by default none).
    """

    number = 0  # of the stage, so that each draws its own random numbers

    def __init__(self, options: OptimiserConfig, seed: int) -> None:
        super().__init__()
        self.options, self.seed = options, seed
        self.spoiled: Tensor | bool = False  # by a loss that was not finite
        self.rows: tuple[int, int] | None = None  # the first clip of this part of the batch, and the clips of the whole
        self.recent: list[dict[str, Tensor]] = []  # losses of the parts of the step under way

    def learn(self, batch: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """Losses of a batch by name; "loss" is the one that is minimised."""
        raise TypeError(f"{type(self).__name__} does not say what it learns from")

    def check(self, batch: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """Figures of a validation batch by name, each a mean over its clips."""
        return self.learn(batch, generator)

    def strip(self, batch: dict[str, Tensor]) -> np.ndarray | None:
        """A picture of a few validation clips, uint8 [H,W,3] RGB; None where there is nothing to see."""
        return None

    def clipped_modules(self) -> list[nn.Module]:
        """The modules whose gradient norms are clipped one by one, as the published optimisers do."""
        raise TypeError(f"{type(self).__name__} does not say which modules it trains")

    def generator(self, *key: int) -> torch.Generator:
        """Random numbers that depend on seed, stage and step alone, so that a resumed run draws the same ones."""
        mixed = hash((self.seed, self.number, *key)) & 0x7FFF_FFFF_FFFF_FFFF
        return torch.Generator(device=self.device).manual_seed(mixed)

    def drawn(
        self, sample: Callable[..., Tensor], shape: Sequence[int], generator: torch.Generator, clips: int = 0
    ) -> Tensor:
        """Random numbers by `sample(size, generator=, device=)` for the clips of this part; clips: their dimension."""
        if self.rows is None:
            return sample(tuple(shape), generator=generator, device=generator.device)
        first, whole = self.rows
        size = (*shape[:clips], whole, *shape[clips + 1 :])
        return sample(size, generator=generator, device=generator.device).narrow(clips, first, shape[clips])

    def training_step(self, batch: dict[str, Tensor], index: int) -> Tensor:
        trainer, clips = self.trainer, len(next(iter(batch.values())))
        parts = trainer.world_size * trainer.accumulate_grad_batches
        part = index % trainer.accumulate_grad_batches * trainer.world_size + trainer.global_rank
        self.rows = part * clips, parts * clips
        values = self.learn(batch, self.generator(self.global_step))
        self.rows = None
        loss = values["loss"]
        self.spoiled = ~torch.isfinite(loss.detach()) | self.spoiled
        # On a GPU only now and then, because to look at a value is to wait for it.
        if loss.device.type == "cpu" or self.global_step % trainer.log_every_n_steps == 0:
            self.check_finite()
        self.recent.append({name: value.detach() for name, value in values.items()})
        self.log("loss", loss.detach(), prog_bar=True, logger=False, batch_size=clips)
        return loss

    @torch.no_grad()
    def figures(self, batches: Iterable[dict[str, Tensor]], clips: int) -> dict[str, float]:
        """Means over validation batches of `clips` clips in all, the same however they are cut into batches."""
        totals, done = {}, 0
        for batch in batches:
            n = len(next(iter(batch.values())))
            self.rows = done, clips
            for name, value in self.check(batch, self.generator(-1)).items():
                totals[name] = totals.get(name, 0.0) + n * float(value)
            done += n
        self.rows = None
        return {name: total / done for name, total in totals.items()}

    def configure_optimizers(self) -> dict:
        o = self.options
        trained = [p for p in self.parameters() if p.requires_grad]
        optimiser = torch.optim.Adam(trained, lr=o.learning_rate, weight_decay=o.weight_decay)

        def factor(step: int) -> float:
            if o.schedule == "step":
                return 0.25 ** (step // o.step_every)
            return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1.0, step / o.steps)))

        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, factor)
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def configure_gradient_clipping(self, optimizer, gradient_clip_val=None, gradient_clip_algorithm=None) -> None:
        for module in self.clipped_modules():
            nn.utils.clip_grad_norm_(module.parameters(), self.options.clip_norm)

    def check_finite(self) -> None:
        """Raise TrainingError if a loss was not finite."""
        if self.spoiled:
            raise TrainingError(
                f"the loss is not finite at step {self.global_step} or shortly before: lower the learning rate, and "
                "resume from the last checkpoint, which was made before that"
            )

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        self.check_finite()


class VisionStage(Stage):
    """What stage 1 and its continuation share: frames of a clip drawn from one of them."""

    def __init__(self, vision: Vision, options: Stage1Config | SynthesisConfig, seed: int) -> None:
        super().__init__(options, seed)
        self.vision = vision
        v = vision
        self.detector = nn.ModuleList((v.detector, v.heatmap))
        synthesiser = [v.appearance, v.merge, v.level0, v.level1, v.level2, v.to_image]
        self.synthesiser = nn.ModuleList(synthesiser + ([v.warp] if v.warp is not None else []))

    def train(self, mode: bool = True) -> VisionStage:
        super().train(mode)
        if self.options.freeze_batch_norm:
            for module in self.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()
        return self

    def choose(self, frames: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Pick 1 + n frames of each clip [B,T,C,H,W], the first being the reference; and their numbers [B,1+n]."""
        b, t = frames.shape[:2]
        first = self.options.reference == "first"
        order = self.drawn(torch.rand, (b, t - first), generator).argsort(dim=1) + int(first)
        if first:
            order = torch.cat((torch.zeros_like(order[:, :1]), order), dim=1)
        order = order[:, : self.options.frames_per_clip + 1]
        return frames[torch.arange(b, device=frames.device).unsqueeze(1), order], order

    def reconstruct(self, chosen: Tensor, xy: Tensor) -> dict[str, Tensor]:
        """Draw frames 1..n of [B,1+n,C,H,W] from frame 0, with keypoints [B,1+n,K,2]; the loss and PSNRs.

        psnr_copy is that of the reference itself; psnr_still, in validation alone, that of the frame drawn without
        moving a keypoint: a synthesiser that takes no notice of keypoints has psnr = psnr_still.
        """
        reference, targets, vision = chosen[:, 0], chosen[:, 1:], self.vision
        features = vision.encode(reference)
        drawn = fast.draw(vision, features, reference, xy[:, 0], xy[:, 1:])

        def psnr(frames: Tensor) -> Tensor:  # of [B, n or 1, C, H, W]
            squared = (frames.detach().clamp(-0.5, 0.5) - targets).square().flatten(2).mean(dim=2)
            return -10 * torch.log10(squared.clamp(min=1e-10)).mean()

        values = {
            "reconstruction": losses.reconstruction(drawn, targets.flatten(0, 1)),
            "psnr": psnr(drawn.view_as(targets)),
            "psnr_copy": psnr(reference.unsqueeze(1)),
        }
        if not self.training:
            with torch.no_grad():
                values["psnr_still"] = psnr(fast.draw(vision, features, reference, xy[:, 0], xy[:, :1]).unsqueeze(1))
        return values

    def learn(self, batch: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        return self.losses(batch, generator)

    @torch.no_grad()
    def strip(self, batch: dict[str, Tensor]) -> np.ndarray:
        """Frames of the clips, and under them those drawn from the clip's first frame and the keypoints of each."""
        vision, clips = self.vision, to_float(batch["frames"])
        shown = torch.linspace(0, clips.shape[1] - 1, strips.FRAMES).round().long().unique()
        made = []
        for clip in clips[:, shown.to(clips.device)]:
            xy = vision.locate(vision.heatmap_logits(clip), snap=getattr(self.options, "gridding", True))
            features = tuple(f.expand(len(clip), -1, -1, -1) for f in vision.encode(clip[:1]))
            first = clip[:1].expand_as(clip), xy[:1].expand_as(xy)
            made.append(strips.to_rgb(vision.decode(features, *first, xy)))
        return strips.pairs([strips.to_rgb(clip) for clip in clips[:, shown.to(clips.device)]], made)


class DetectionStage(VisionStage):
    """Stage 1: detector and synthesiser, through the straight-through grid."""

    number = 1

    def clipped_modules(self) -> list[nn.Module]:
        return [self.detector, self.synthesiser]

    def losses(self, batch: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        o, vision = self.options, self.vision
        chosen, order = self.choose(to_float(batch["frames"]), generator)  # [B, 1+n, C, H, W]
        # Under autocast, too, positions are found in full precision: a bfloat16 would miss by an eighth of a cell.
        logits = vision.heatmap_logits(chosen.flatten(0, 1)).float()
        free = vision.locate(logits, snap=False)
        xy = kp.snap_to_grid(free, vision.config.height, vision.config.width) if o.gridding else free
        xy = xy.unflatten(0, order.shape)  # [B, 1+n, K, 2]
        values = self.reconstruct(chosen, xy)
        values["condensation"] = losses.condensation(logits.sigmoid(), o.condensation_channels)
        values["loss"] = values["reconstruction"] + o.condensation_weight * values["condensation"]
        if o.anchored:
            rows = torch.arange(len(order), device=order.device).unsqueeze(1)
            size = (vision.config.height, vision.config.width)
            truth = [batch[key][rows, order].flatten(0, 1) for key in ("points", "known", "visible")]
            share = self.share_of_known(*truth[1:])
            values["anchor"] = share * losses.anchor(logits, *truth, size)
            values["anchor_cells"] = share * losses.anchor_distance(free, *truth, size)
            values["loss"] = (
                values["loss"] + o.anchor_weight * values["anchor"] + o.anchor_distance_weight * values["anchor_cells"]
            )
        if o.separation_weight:
            values["separation"] = losses.separation(xy)
            values["loss"] = values["loss"] + o.separation_weight * values["separation"]
        return values

    def share_of_known(self, known: Tensor, visible: Tensor) -> Tensor | float:
        """Factor on this process's mean over known points that makes the processes' mean that over all their points."""
        if not self.training or self._trainer is None or self.trainer.world_size == 1:
            return 1.0
        own = losses.weight_of_known(known, visible).sum()
        everywhere = self.trainer.strategy.reduce(own.clone(), reduce_op="sum")
        return own.clamp(min=1.0) * self.trainer.world_size / everywhere.clamp(min=1.0)


class SynthesisStage(VisionStage):
    """The synthesiser alone, on keypoints of the frozen detector of stage 1."""

    number = 3

    def __init__(self, vision: Vision, options: SynthesisConfig, seed: int) -> None:
        super().__init__(vision, options, seed)
        self.detector.requires_grad_(False)

    def train(self, mode: bool = True) -> SynthesisStage:
        super().train(mode)
        self.detector.eval()  # its batch statistics are frozen too
        return self

    def clipped_modules(self) -> list[nn.Module]:
        return [self.synthesiser]

    def losses(self, batch: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        chosen, order = self.choose(to_float(batch["frames"]), generator)
        with torch.no_grad():
            xy = self.vision.locate(self.vision.heatmap_logits(chosen.flatten(0, 1)).float()).unflatten(0, order.shape)
        values = self.reconstruct(chosen, xy)
        values["loss"] = values["reconstruction"]
        return values


class MotionStage(Stage):
    """The motion prior, on its own rollout and on the density of the next cell."""

    number = 4

    def __init__(self, prior: MotionPrior, options: MotionConfig, seed: int) -> None:
        super().__init__(options, seed)
        self.prior = prior

    def clipped_modules(self) -> list[nn.Module]:
        return [self.prior]

    def losses(self, classes: Tensor, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """classes: cells, int64 [B,T,K]. Predicts `horizon` frames from every third frame that has them ahead.

        generator: varies the clips, see `vary`, and lets half of them begin with what another clip left in the GRU:
        online it has been running for longer than any clip.
        """
        prior, (b, t, k), horizon = self.prior, classes.shape, self.options.horizon
        pixels = kp.classes_to_pixels(classes, prior.size[1])
        if generator is not None:
            pixels = self.vary(pixels, generator)
            classes = kp.to_classes(pixels, *prior.size)
            pixels = kp.classes_to_pixels(classes, prior.size[1])  # at the border where they would leave the grid
        # None of the cells counts as observed: training is not to lean on how far a prediction is believed.
        advance = partial(prior.advance, observed=False)
        track, momentum = pixels.new_zeros(b, k, 5), pixels.new_zeros(b, prior.gru.hidden_size)
        if generator is not None:
            with torch.no_grad():
                for i in range(t):
                    track, momentum = advance(track, momentum, pixels[:, i].roll(1, dims=0))
            kept = self.drawn(torch.rand, (b, 1), generator) < 0.5
            track, momentum = torch.zeros_like(track), momentum * kept
        tracks, momenta, density = [], [], []
        every = max(1, (t - horizon) // 4)  # now and then is enough for the density: its 4096 cells cost time
        for i in range(t - horizon):
            if i % every == every - 1:
                density.append(losses.keypoint_cross_entropy(prior(track, momentum), classes[:, i]))
            track, momentum = advance(track, momentum, pixels[:, i])
            tracks.append(track)
            momenta.append(momentum)
        origins = range(self.options.observed - 1, t - horizon, 3)
        track, momentum = torch.cat([tracks[i] for i in origins]), torch.cat([momenta[i] for i in origins])
        last = torch.cat([pixels[:, i] for i in origins])  # [origins*B, K, 2]
        values, error = {}, []
        for step in range(1, horizon + 1):
            truth = torch.cat([pixels[:, i + step] for i in origins])
            ahead, _ = prior.predict(track, momentum)
            error.append((ahead - truth).square().sum(dim=-1).add(1e-4).sqrt().mean())
            track, momentum = advance(track, momentum, ahead.detach().round())
            if step in STATED_STEPS:
                values[f"cells_{step}"] = (ahead.detach().round() - truth).norm(dim=-1).mean()
                values[f"cells_{step}_stays_put"] = (last - truth).norm(dim=-1).mean()
        values |= {"distance": torch.stack(error).mean(), "cross_entropy": torch.stack(density).mean()}
        values["loss"] = values["distance"] + values["cross_entropy"]
        return values

    def vary(self, pixels: Tensor, generator: torch.Generator) -> Tensor:
        """Clips [B,T,K,2] as another scene, camera and detector would have them: slower, moved, magnified, unsteady."""
        o, (b, t, k, _) = self.options, pixels.shape

        def drawn(*shape: int) -> Tensor:
            return self.drawn(torch.rand, shape, generator)

        if o.slow_share:  # the first part of a clip, stretched over it: for all keypoints, or for half of them
            slow = (drawn(b, 1) < o.slow_share) & ((drawn(b, k) < 0.5) | (drawn(b, 1) < 0.3))
            speed = torch.where(slow, drawn(b, 1) * (drawn(b, 1) < 0.5), 1.0)  # [B, K]
            times = torch.arange(t, device=pixels.device).view(1, t, 1) * speed.unsqueeze(1)  # [B, T, K]
            before = times.floor().long().clamp(max=t - 2).unsqueeze(-1).expand(-1, -1, -1, 2)
            share = times.unsqueeze(-1) - before
            pixels = (1 - share) * pixels.gather(1, before) + share * pixels.gather(1, before + 1)
        if o.zoom > 1:
            middle = torch.tensor([self.prior.size[1] / 2, self.prior.size[0] / 2], device=pixels.device)
            pixels = middle + (pixels - middle) * o.zoom ** (2 * drawn(b, 1, 1, 1) - 1)
        pixels = pixels + self.drawn(partial(torch.randint, -o.shift, o.shift + 1), (b, 1, 1, 2), generator)
        if o.jitter:
            unsteady = o.jitter * drawn(b, 1, k, 1).square() * (drawn(b, 1, 1, 1) < 0.5)
            pixels = pixels + unsteady * self.drawn(torch.randn, pixels.shape, generator)
        return pixels

    def learn(self, batch: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        return self.losses(batch["classes"], generator)

    def check(self, batch: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        return self.losses(batch["classes"])


class DynamicsStage(Stage):
    """Stage 2: the VRNN on the binary maps of the frozen detector's keypoints, teacher-forced over the clip."""

    number = 2

    def __init__(self, dynamics: Dynamics, options: Stage2Config, seed: int) -> None:
        super().__init__(options, seed)
        self.dynamics = dynamics
        if dynamics.motion_prior is not None:
            dynamics.motion_prior.requires_grad_(False)

    def clipped_modules(self) -> list[nn.Module]:
        d = self.dynamics
        return [
            nn.ModuleList((d.enc, d.lstm)),
            nn.ModuleList((d.prior_conv, d.prior_head)),
            nn.ModuleList((d.post_maps, d.post_conv, d.post_head)),
            nn.ModuleList((d.dec, d.to_logits)),
        ]

    def configure_gradient_clipping(self, *options, **more) -> None:
        # One constant on the logits of all cells changes no probability: its gradient is rounding alone, and Adam would
        # make full steps of that, other ones for every number of processes.
        self.dynamics.to_logits.bias.grad.zero_()
        super().configure_gradient_clipping(*options, **more)

    def losses(self, classes: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """classes: true cells, int64 [B,warmup_frames+T,K]."""
        o, d = self.options, self.dynamics
        h, c, *tracks = self.warm_up(classes[:, : o.warmup_frames], generator)
        classes = classes[:, o.warmup_frames :]
        t = classes.shape[1]
        momentum, momentum_states = self.momentum(tuple(tracks), kp.classes_to_pixels(classes, d.config.width))
        classes = classes.transpose(0, 1)  # [T, B, K]: a step's tensors lie together
        unrolled = UnrolledDynamics(d)
        # What needs no state is computed for all times at once; the state after the last frame is not needed itself.
        gates_of_cells = unrolled.gates_of_cells(classes[:-1].flatten(0, 1)).split(classes.shape[1])
        posterior_of_cells = unrolled.posterior_of_cells(classes.flatten(0, 1)).split(classes.shape[1])
        of_decoder, of_prior, latents, posteriors = [], [], [], []
        observed = t - o.free_running_steps
        for i in range(t):
            if i == observed:
                turning_point = h, c
            gates, posterior, decoder, prior = unrolled.read_state(h)
            mean, std = unrolled.posterior(posterior, posterior_of_cells[i])
            z = self.best_latent(unrolled, decoder, mean, std, classes[i], generator, momentum[i])
            of_decoder.append(decoder)
            of_prior.append(prior)
            latents.append(z)
            posteriors.append((mean, std))
            if i < t - 1:
                h, c = unrolled.step(c, gates, gates_of_cells[i], z)
        logits = unrolled.logits(torch.cat(of_decoder), torch.cat(latents))
        if tracks:
            logits = logits + torch.cat(momentum)
        q = tuple(torch.cat(x) for x in zip(*posteriors[1:], strict=True))
        p = unrolled.prior(torch.cat(of_prior[1:]))
        values = {
            "cross_entropy": losses.keypoint_cross_entropy(logits, classes.flatten(0, 1)),
            "kl": losses.gaussian_kl(q, p) if o.kl_direction == "posterior_prior" else losses.gaussian_kl(p, q),
        }
        values["loss"] = values["cross_entropy"] + o.beta * values["kl"]
        if o.free_running:
            ahead = free_run(d, (*turning_point, *momentum_states[observed]), o.free_running_steps)
            ahead, truth = ahead.transpose(0, 1).flatten(0, 1), classes[observed:].flatten(0, 1)
            values["free_running"] = losses.keypoint_cross_entropy(ahead, truth)
            values["cells_off"] = losses.mode_distance(ahead, truth, d.config.width)
            values["loss"] = (
                values["loss"]
                + o.free_running_weight * values["free_running"]
                + o.free_running_distance_weight * values["cells_off"]
            )
        return values

    @torch.no_grad()
    def warm_up(self, classes: Tensor, generator: torch.Generator) -> tuple[Tensor, ...]:
        """The state after the last few of cells [B,W,K], how few is drawn for each clip: from none to all."""
        d = self.dynamics
        b, w, _ = classes.shape
        state = d.initial_state(b, next(d.parameters()))
        if not w:
            return state
        begins = self.drawn(partial(torch.randint, 0, w + 1), (b,), generator)
        pixels = kp.classes_to_pixels(classes, d.config.width)
        for i in range(w):
            counts = (begins <= i).to(pixels.dtype)
            state = tuple(x * counts.view(b, *[1] * (x.dim() - 1)) for x in observe(d, state, pixels[:, i]))
        return state

    def momentum(self, tracks: tuple[Tensor, ...], pixels: Tensor) -> tuple[list[Tensor | float], list]:
        """What the motion prior adds to the logits of T frames of true cells [B,T,K,2], and its states before."""
        added, states = [], []
        for i in range(pixels.shape[1]):
            states.append(tracks)
            added.append(self.dynamics.prior_logits(tracks))
            tracks = self.dynamics.advance_tracks(tracks, pixels[:, i])
        return added, states

    def best_latent(
        self,
        unrolled: UnrolledDynamics,
        of_state: Tensor,
        mean: Tensor,
        std: Tensor,
        classes: Tensor,
        generator: torch.Generator,
        momentum: Tensor | float = 0.0,
    ) -> Tensor:
        """Draw `best_of` latents and keep, for each clip, the one that explains its keypoints best."""
        n, b = self.options.best_of, len(mean)
        eps = self.drawn(torch.randn, (n, *mean.shape), generator, clips=1)
        z = mean + std * eps  # [n, B, 1, h, w]
        if n == 1:
            return z[0]
        with torch.no_grad():
            logits = unrolled.logits(of_state, z)
            if isinstance(momentum, Tensor):
                logits += momentum
            target = classes.expand(n, -1, -1).unsqueeze(-1)  # [n, B, K, 1] of [n, B, K, cells]
            cost = (logits.logsumexp(dim=-1) - logits.gather(-1, target).squeeze(-1)).sum(dim=-1)
            best = cost.argmin(dim=0)
        return z[best, torch.arange(b, device=z.device)]

    def learn(self, batch: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        return self.losses(batch["classes"], generator)

    def check(self, batch: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        return self.learn(batch, generator) | self.horizon_errors(batch["classes"])

    @torch.no_grad()
    def horizon_errors(self, classes: Tensor) -> dict[str, Tensor]:
        """Error in cells of the central future after half of the clip was observed, beside that of staying put.

        With a motion prior, also that of the future it foretells alone: what the convLSTM adds is the difference.
        """
        d, truth = self.dynamics, kp.classes_to_pixels(classes, self.dynamics.config.width)
        predicted, state = self.central_future(truth)
        steps = predicted.shape[1]
        seen = truth.shape[1] - steps
        futures = {"": predicted, "_stays_put": truth[:, seen - 1 : seen]}
        if d.motion_prior is not None:
            futures["_momentum"] = follow_momentum(d, state[2:], steps)
        return errors_in_cells(futures, truth[:, seen:])

    def central_future(self, truth: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The central future, pixels [B,steps,K,2], after half of a clip [B,W+T,K,2] was observed; the state then."""
        d, warm = self.dynamics, self.options.warmup_frames
        seen = warm + (truth.shape[1] - warm) // 2
        state = d.initial_state(len(truth), truth)
        for i in range(seen):
            state = observe(d, state, truth[:, i])
        logits = free_run(d, state, truth.shape[1] - seen)
        return kp.classes_to_pixels(logits.argmax(dim=-1), d.config.width), state

    @torch.no_grad()
    def strip(self, batch: dict[str, Tensor]) -> np.ndarray | None:
        """Frames of the clips with detected keypoints (dots), and from the middle on with forecast ones (rings)."""
        if "frames" not in batch:
            return None
        truth = kp.classes_to_pixels(batch["classes"], self.dynamics.config.width)
        predicted, _ = self.central_future(truth)
        seen = truth.shape[1] - predicted.shape[1]
        forecast = torch.cat((torch.full_like(truth[:, :seen], torch.nan), predicted), dim=1).cpu().numpy()
        shown = np.unique(np.linspace(seen - 2, truth.shape[1] - 1, strips.FRAMES).round().astype(int))
        rows = [
            strips.with_keypoints(strips.to_rgb(to_float(frames[shown])), dots[shown], rings[shown])
            for frames, dots, rings in zip(batch["frames"], truth.cpu().numpy(), forecast, strict=True)
        ]
        return np.concatenate(rows)

    @torch.no_grad()
    def shrink_decoder(self, clips: Sequence[Tensor]) -> float:
        """Scale the decoder's last layer as `prior_tolerance` asks for, on batches of cells; returns the factor."""
        layer = self.dynamics.to_logits
        weight, bias = layer.weight.clone(), layer.bias.clone()
        for gain in (1.0, 0.75, 0.5, 0.25, 0.0):
            layer.weight.copy_(gain * weight)
            layer.bias.copy_(gain * bias)
            errors = [self.horizon_errors(batch) for batch in clips]
            steps = [name for name in errors[0] if name.removeprefix("cells_").isdigit()]
            whole, alone = (sum(e[name + end] for e in errors for name in steps) for end in ("", "_momentum"))
            if whole <= (1 + self.options.prior_tolerance) * alone:
                break
        return gain

    @torch.no_grad()
    def fit_drift(self, clips: Sequence[Tensor], steps: int) -> float:
        """The share by which gathered covariance has to grow with each step for the last ellipses to hold their aim.

        clips: batches of cells, int64 [B,T,K], of which the last `steps` are forecast. The errors of successive steps
        are not independent, as a sum of their variances would have it: an instrument that was expected to rest and
        moves goes on moving. See `export.graphs.state_shapes`.
        """
        d, gathered, off = self.dynamics, [], []
        for classes in clips:
            truth = kp.classes_to_pixels(classes, d.config.width)
            state = d.initial_state(len(truth), truth)
            for i in range(truth.shape[1] - steps):
                state = observe(d, state, truth[:, i])
            logits = free_run(d, state, steps)  # [B, steps, K, cells]
            best = kp.classes_to_pixels(logits.argmax(dim=-1), d.config.width)
            gathered.append(kp.second_moments(logits.softmax(dim=-1), best, d.config.height, d.config.width))
            off.append(truth[:, -steps:] - best)
        spread, offset = torch.cat(gathered), torch.cat(off)

        def held(growth: float) -> float:
            """The share of points inside their 90 % ellipse in the last third of the steps."""
            covariance, inside = torch.zeros_like(spread[:, 0]), []
            for step in range(steps):
                covariance = (1 + growth) * covariance + self.options.spread_share * spread[:, step]
                xx, xy, yy = (covariance + covariance.new_tensor([1 / 12, 0, 1 / 12])).unbind(-1)
                x, y = offset[:, step].unbind(-1)
                distance = (yy * x * x - 2 * xy * x * y + xx * y * y) / (xx * yy - xy * xy)
                inside.append(distance <= -2 * math.log(0.1))
            return torch.stack(inside[-max(1, steps // 3) :]).float().mean().item()

        return min((g / 100 for g in range(0, 41)), key=lambda growth: abs(held(growth) - self.options.ellipse_aim))


def errors_in_cells(futures: Mapping[str, Tensor], came: Tensor) -> dict[str, Tensor]:
    """Mean errors in cells of futures [B,steps or 1,K,2] by name, from what came, [B,steps,K,2]: "cells_5" + name."""
    errors = {name: (pixels - came).norm(dim=-1).mean(dim=(0, 2)) for name, pixels in futures.items()}
    return {
        f"cells_{step}{name}": error[step - 1]
        for name, error in errors.items()
        for step in STATED_STEPS
        if step <= len(error)
    }


def observe(d: Dynamics, state: tuple[Tensor, ...], pixels: Tensor, z: Tensor | None = None) -> tuple[Tensor, ...]:
    """Absorb one frame's cells [B,K,2]; z: the latent of predicted ones, by default the cells were seen."""
    h, c, *tracks = state
    maps = kp.binary_maps(kp.to_classes(pixels, d.config.height, d.config.width), d.config.height, d.config.width)
    seen = z is None
    if seen:
        z, _ = d.posterior(h, d.posterior_maps(maps))
    return (*d.step(h, c, d.encode_maps(maps), z), *d.advance_tracks(tuple(tracks), pixels, observed=seen))


def free_run(d: Dynamics, state: tuple[Tensor, ...], steps: int) -> Tensor:
    """Predict from the model's own cells with the prior's mean: logits [B,steps,K,cells], with gradients."""
    out = []
    for _ in range(steps):
        h, _, *tracks = state
        z, _ = d.prior(h)
        logits = d.logits(h, z) + d.prior_logits(tuple(tracks))
        state = observe(d, state, kp.classes_to_pixels(logits.argmax(dim=-1), d.config.width), z)
        out.append(logits)
    return torch.stack(out, dim=1)


def follow_momentum(d: Dynamics, tracks: tuple[Tensor, ...], steps: int) -> Tensor:
    """What the motion prior alone would predict: pixels [B,steps,K,2]; tracks: the state after h and c."""
    out = []
    for _ in range(steps):
        pixels = kp.classes_to_pixels(d.prior_logits(tracks).argmax(dim=-1), d.config.width)
        tracks = d.advance_tracks(tracks, pixels, observed=False)
        out.append(pixels)
    return torch.stack(out, dim=1)
