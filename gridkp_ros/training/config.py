"""The trainer's configuration: a YAML file checked field by field."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    model_validator,
)

from gridkp_ros.geometry import InputSpec
from gridkp_ros.nets.gridkp import GridKeypointConfig


class TrainingError(Exception):
    """A training run cannot start or go on; the message says what, where, and what to do."""


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


Share = Annotated[float, Field(ge=0, le=1)]


class SimulatorSource(Strict):
    """Episodes of the simulator, one for each seed of [first_seed, first_seed + episodes)."""

    kind: Literal["simulator"]
    first_seed: int = Field(0, ge=0)
    episodes: PositiveInt
    duration_s: PositiveFloat = 6.0
    width: PositiveInt = 128
    height: PositiveInt = 96
    background: Literal["random", "tissue", "peg_board"] = "random"
    weight: PositiveFloat = 1.0


class FootageSource(Strict):
    """A video, rosbag or folder of frames, or a folder in which each of these counts.

    topic: of the images in bags with several: one, a list of them, or "*" for all; each becomes a recording of its own.
    part: what of each recording is meant, from one share of it to another, 0 to 1: so one recording can serve for
    training, [0, 0.8], and for validation, [0.8, 1]. rate_hz: of frames that have no stamps of their own. max_gap_s: a
    longer gap ends a recording, so that no clip spans it. weight: how often its clips are drawn, against 1.
    """

    kind: Literal["footage"]
    path: Path
    part: tuple[Share, Share] = (0.0, 1.0)
    topic: str | list[str] | None = None
    rate_hz: PositiveFloat | None = None
    max_gap_s: PositiveFloat = 0.5
    weight: PositiveFloat = 1.0

    @model_validator(mode="after")
    def _check(self) -> FootageSource:
        if self.part[0] >= self.part[1]:
            raise ValueError(
                f"part={list(self.part)} ends before it begins: give two shares of the recording in order, such as "
                "[0, 0.8]"
            )
        return self


class DatasetSource(Strict):
    """A published data set in the layout in which it is published, see docs/data.md.

    name: of the data set. root: its folder (none for those that are generated). options: the data set's own. points:
    use its named points as ground truth, for anchored keypoints and the probe. max_recordings: no more than so many,
    spread over all of them. weight: how often its clips are drawn, against 1.
    """

    kind: Literal["dataset"]
    name: str
    root: Path = Path()
    split: str = "train"
    options: dict[str, Any] = {}
    points: bool = False
    max_recordings: PositiveInt | None = None
    weight: PositiveFloat = 1.0


Source = Annotated[SimulatorSource | FootageSource | DatasetSource, Field(discriminator="kind")]


class AugmentationConfig(Strict):
    """Photometric changes and other views, see `data.clips.Augmentation`."""

    gain: float = Field(1.0, ge=1.0)
    color: float = Field(1.0, ge=1.0)
    offset: float = Field(0.0, ge=0.0)
    noise: float = Field(0.0, ge=0.0)
    flip: bool = False
    zoom: float = Field(1.0, ge=1.0)
    rotation_deg: float = Field(0.0, ge=0.0, le=180.0)


class DataConfig(Strict):
    """What is learned from, and what is kept to check on.

    period_s: the model's time step. clip_length: frames of a training clip (stage 2; stage 1 draws from it).
    resize: how a frame of another aspect ratio becomes the model's. workers: processes that prepare clips (0: the
    training process itself, which is enough for recordings kept in memory at the model's size).
    """

    period_s: PositiveFloat = 1 / 15
    clip_length: int = Field(20, ge=2)
    resize: Literal["stretch", "letterbox", "center_crop"] = "stretch"
    train: list[Source] = Field(min_length=1)
    validation: list[Source] = Field(min_length=1)
    augmentation: AugmentationConfig = AugmentationConfig()
    workers: int = Field(0, ge=0)


class OptimiserConfig(Strict):
    """Adam as published: weight decay 1e-4, gradient norm of each module clipped at 1.

    schedule "cosine" falls to 2 % of the rate over the stage; "step" divides it by 4 every `step_every` steps (the
    paper's decay rate of 0.25; 9,000 steps in its code).
    batch_clips: clips of a step, all processes and accumulated parts together. monitor: the validation figure (without
    "val/") by which the best weights are told and a part stops early; the highest where its name begins with psnr, else
    the lowest.
    """

    steps: PositiveInt
    learning_rate: PositiveFloat = 1e-3
    weight_decay: float = Field(1e-4, ge=0)
    clip_norm: PositiveFloat = 1.0
    schedule: Literal["cosine", "step"] = "step"
    step_every: PositiveInt = 9000
    batch_clips: PositiveInt = 32
    monitor: str = "loss"


class Stage1Config(OptimiserConfig):
    """Detector and synthesiser.

    frames_per_clip: frames reconstructed from each clip, beside its reference frame. reference: "random" frame of
    the clip (the runtime renders from the newest frame), or "first" (the published code).
    condensation_weight: 6.4 with "worst" is the published weight on the batch mean; 0.01 with "all" is as printed.
    anchor_weight: ties the first keypoints to the simulator's named points (0: unsupervised, the paper).
    anchor_distance_weight: the same by their distance in cells, which makes anchored keypoints steadier.
    separation_weight: Struct-VRNN's loss against keypoints that all move alike (the published code leaves it out).
    gridding: off for the paper's Table III baselines.
    freeze_batch_norm: keep the batch norms' statistics as they are at the start: for fine-tuning on little data, and
    for training that does not depend on the number of processes.
    """

    steps: int = Field(18_000, ge=0)
    frames_per_clip: PositiveInt = 19
    reference: Literal["random", "first"] = "random"
    condensation_weight: float = Field(6.4, ge=0)
    condensation_channels: Literal["worst", "all"] = "worst"
    anchor_weight: float = Field(0.0, ge=0)
    anchor_distance_weight: float = Field(0.0, ge=0)
    separation_weight: float = Field(0.0, ge=0)
    gridding: bool = True
    freeze_batch_norm: bool = False

    @property
    def anchored(self) -> bool:
        return self.anchor_weight > 0 or self.anchor_distance_weight > 0


class SynthesisConfig(OptimiserConfig):
    """More training of the synthesiser alone, with the detector of stage 1 frozen (not in the paper; 0 steps: none)."""

    steps: int = Field(0, ge=0)
    frames_per_clip: PositiveInt = 19
    reference: Literal["random", "first"] = "random"
    freeze_batch_norm: bool = False


class MotionConfig(OptimiserConfig):
    """The motion prior alone, on detected cells, before stage 2 keeps it fixed (not in the paper).

    clip_length: frames. observed: frames seen before the first prediction. horizon: steps predicted from each frame.
    shift: cells a clip is moved by at most, so that places are not learned by heart. zoom: largest factor by which it
    is magnified or made smaller. slow_share: of the clips, in which some keypoints are slowed down, half of them to a
    rest. jitter: largest standard deviation, in cells, of the noise on a keypoint's cells (in half of the clips,
    another for each keypoint): how steady a detector is on footage of another rig is not known beforehand.
    """

    steps: int = Field(500, ge=0)
    clip_length: int = Field(40, ge=8)
    shift: int = Field(0, ge=0)
    zoom: float = Field(1.0, ge=1.0)
    slow_share: float = Field(0.0, ge=0.0, le=1.0)
    jitter: float = Field(0.0, ge=0.0)
    observed: PositiveInt = 5
    horizon: PositiveInt = 15


class Stage2Config(OptimiserConfig):
    """Dynamics.

    best_of: latents drawn for each step, of which the best is trained (10 in the published code; not in the paper).
    beta: weight of the KL term: 0.05 is the published KTH script's, the paper prints 0.1.
    free_running_weight: weight of the cross-entropy of the last `free_running_steps` frames of the clip when they are
    predicted as at run time, from the model's own cells and the prior's mean latent (0: teacher forcing alone, the
    paper). One-step likelihood says little about a second ahead: instruments that mostly rest are predicted best,
    one step at a time, by staying put.
    free_running_distance_weight: weight of the distance, in cells, of those predictions from the truth.
    warmup_frames: frames before those of the clip, up to which many are absorbed without gradients, a number drawn for
    each clip (0: every clip begins from zeros, the paper). Online the state has seen more than a clip's frames.
    prior_tolerance: after training, scale the decoder's last layer down, in quarters, until forecasts of validation
    clips are at most this share farther off than the motion prior's alone (default: leave it as trained). A short
    training adds noise to the best cell before it adds knowledge, but spreads the distribution as it should be.
    spread_share: of each predicted step's own spread that the published covariance gathers. ellipse_aim: share of
    points that the 90 % ellipses at the last trusted step are to hold on validation clips, by letting the gathered
    covariance grow (`DynamicsStage.fit_drift`); more than 0.9 leaves room for footage unlike that of the training.
    kl_direction: "posterior_prior" is KL(q || p) as the paper has it; the published code has it the other way round.
    """

    steps: int = Field(27_000, ge=0)
    best_of: PositiveInt = 10
    beta: float = Field(0.05, ge=0)
    kl_direction: Literal["posterior_prior", "prior_posterior"] = "posterior_prior"
    free_running_weight: float = Field(0.0, ge=0)
    free_running_distance_weight: float = Field(0.0, ge=0)
    free_running_steps: PositiveInt = 15
    warmup_frames: int = Field(0, ge=0)
    prior_tolerance: float | None = Field(None, ge=0)
    spread_share: float = Field(1.0, gt=0, le=1)
    ellipse_aim: float = Field(0.9, ge=0.5, lt=1)

    @property
    def free_running(self) -> bool:
        return self.free_running_weight > 0 or self.free_running_distance_weight > 0


class ModelConfig(Strict):
    """Sizes of the network, see `nets.gridkp.GridKeypointConfig`."""

    channels: Literal[1, 3] = 3
    num_keypoints: PositiveInt = 12
    height: PositiveInt = 64
    width: PositiveInt = 64
    base: PositiveInt = 32
    hidden: PositiveInt = 64
    sigma: PositiveFloat = 1.5
    maps: Literal["difference", "both"] = "difference"
    coordinates: Literal["sigmoid", "softmax"] = "sigmoid"
    motion_width: int = Field(0, ge=0)
    motion_gain: bool = True
    warp: bool = False
    propagation: Literal["binary", "gaussian", "vector"] = "binary"

    def build(self) -> GridKeypointConfig:
        return GridKeypointConfig(**self.model_dump())


class TrainerConfig(Strict):
    """The machine, and what is done at every step of every part.

    accelerator: "auto" takes GPUs where there are some. devices: processes on this machine, "auto" for one on each GPU
    (on the CPU: one). More than one begins them itself; under torchrun or SLURM those that are there are used, on any
    number of machines. strategy: "ddp", or "ddp_find_unused_parameters_true" for networks with parts that a step may
    leave out.
    precision: "auto" is bf16-mixed on GPUs that have it in hardware, else 32.
    accumulate_grad_batches: parts into which each process cuts its clips of a step, one after the other, to need less
    memory. batch_clips stays what it is; each process takes its share of the same batch.
    ema_decay: keep an exponential moving average of the weights, 0.999 say; it is what is validated, kept and exported.
    deterministic: only algorithms that always give the same bits (GPUs have faster ones); resuming is bit for bit then.
    sync_batch_norm: on several GPUs, statistics of batch norms are those of the whole batch.
    early_stop_patience: stop a part after that many validations without an improvement of its `monitor` by more than
    early_stop_min_delta. max_minutes: stop each part after that long.
    select: keep the "best" or the "last" weights of each part; by default the last, with early stopping the best.
    max_unreadable: share of clips that may be unreadable (each is named, counted and replaced) before training stops.
    """

    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    devices: PositiveInt | Literal["auto"] = "auto"
    strategy: Literal["ddp", "ddp_find_unused_parameters_true"] = "ddp"
    precision: Annotated[Literal["auto", "32", "bf16-mixed"], BeforeValidator(str)] = "auto"
    accumulate_grad_batches: PositiveInt = 1
    ema_decay: float | None = Field(None, gt=0, lt=1)
    deterministic: bool = False
    sync_batch_norm: bool = True
    early_stop_patience: PositiveInt | None = None
    early_stop_min_delta: float = Field(0.0, ge=0)
    max_minutes: PositiveFloat | None = None
    select: Literal["best", "last"] | None = None
    max_unreadable: float = Field(0.01, ge=0, le=1)

    @property
    def keeps(self) -> Literal["best", "last"]:
        return self.select or ("best" if self.early_stop_patience else "last")


class TrainConfig(Strict):
    """A whole run: data, both stages, the probe, the bundle.

    name: of the run's folder and of the bundle. description, licence: for the model card. seed: of everything drawn.
    trusted_steps: no farther than the model is evaluated; by default half a clip, which is how far the validation of
    stage 2 foretells. checkpoint_every: steps between two states that `--resume` can go on from. validate_every: steps
    between two validations, of which the last is always after the last step (default: that one alone).
    start_share: share of --from in the weights: each is the mean of what it was and of what training made of it
    (Wortsman et al., Robust fine-tuning of zero-shot models, CVPR 2022, recommend 0.5), so that a bundle fine-tuned on
    little footage remains good on other footage. 0: as trained.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9_.-]+$")
    description: str = ""
    licence: str = "Apache-2.0"
    seed: int = Field(1, ge=0)
    model: ModelConfig = ModelConfig()
    data: DataConfig
    stage1: Stage1Config = Stage1Config()
    synthesis: SynthesisConfig = SynthesisConfig()
    motion: MotionConfig = MotionConfig()
    stage2: Stage2Config = Stage2Config()
    trusted_steps: PositiveInt | None = None
    start_share: float = Field(0.0, ge=0, lt=1)
    checkpoint_every: PositiveInt = 50
    validate_every: PositiveInt | None = None
    trainer: TrainerConfig = TrainerConfig()

    @model_validator(mode="after")
    def _check(self) -> TrainConfig:
        self.model.build()
        if self.trainer.early_stop_patience and not self.validate_every:
            raise ValueError("trainer.early_stop_patience counts validations: say after how many steps, validate_every")
        for part in ("stage1", "synthesis"):
            options = getattr(self, part)
            if options.steps and options.frames_per_clip >= self.data.clip_length:
                raise ValueError(
                    f"{part}.frames_per_clip={options.frames_per_clip} must be below "
                    f"data.clip_length={self.data.clip_length}: one frame of each clip is the reference"
                )
        m = self.motion
        if m.observed + m.horizon > m.clip_length:
            raise ValueError(
                f"motion: observed={m.observed} and horizon={m.horizon} frames do not fit clip_length={m.clip_length}"
            )
        if self.model.propagation != "binary" and (self.stage2.free_running or self.stage2.warmup_frames):
            raise ValueError(
                f"stage2.free_running_* and warmup_frames are of binary maps alone: leave them out with "
                f"model.propagation={self.model.propagation!r}"
            )
        if self.stage2.free_running and self.stage2.free_running_steps >= self.data.clip_length:
            raise ValueError(
                f"stage2.free_running_steps={self.stage2.free_running_steps} must be below "
                f"data.clip_length={self.data.clip_length}: something has to be observed first"
            )
        return self

    @property
    def input_spec(self) -> InputSpec:
        m = self.model
        return InputSpec(m.height, m.width, m.channels, "rgb" if m.channels == 3 else "grey", self.data.resize)


def load_config(path: Path, changes: Mapping[str, Any] | None = None) -> TrainConfig:
    """Read and check a YAML configuration; changes: dotted fields and the values they have instead.

    Raises TrainingError naming each field that is wrong and what it may be.
    """
    try:
        content = yaml.safe_load(Path(path).read_text())
    except OSError as error:
        raise TrainingError(f"cannot read the configuration {path}: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise TrainingError(f"{path} is not valid YAML: {error}") from error
    for name, value in (changes or {}).items():
        *parents, last = name.split(".")
        part = content
        for parent in parents:
            part = part.setdefault(parent, {}) if isinstance(part, dict) else None
        if not isinstance(part, dict):
            raise TrainingError(
                f"{name} cannot be changed: {'.'.join(parents)} of {path} has no fields (a list is given as a whole)"
            )
        part[last] = value
    try:
        return TrainConfig.model_validate(content)
    except ValidationError as error:
        lines = [f"  {'.'.join(map(str, e['loc'])) or '(whole file)'}: {e['msg']}" for e in error.errors()]
        raise TrainingError(f"{path} does not fit:\n" + "\n".join(lines)) from error
