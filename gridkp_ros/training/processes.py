"""The processes of one training run: one alone, several on this machine, or several machines by torchrun or SLURM.

Every process runs the same code on the same data; the first one alone writes, and what it finds out the others hear.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar
from uuid import uuid4

import torch
from lightning.fabric.plugins.environments import SLURMEnvironment, TorchElasticEnvironment
from torch import distributed

from gridkp_ros.training.config import TrainConfig, TrainerConfig, TrainingError

log = logging.getLogger(__name__)
T = TypeVar("T")


@dataclass(frozen=True)
class Processes:
    """Which process this is (rank, and local_rank on its machine), of how many, on how many machines."""

    rank: int = 0
    world: int = 1
    local_rank: int = 0
    nodes: int = 1

    @property
    def first(self) -> bool:
        return self.rank == 0

    def tell(self, find: Callable[[], T]) -> T:
        """What `find` returns in the first process, in all of them; a TrainingError there is raised in all of them."""
        if self.world == 1:
            return find()
        answer: list[Any] = [None, None]
        if self.first:
            try:
                answer[0] = find()
            except TrainingError as error:
                answer[1] = str(error)
        distributed.broadcast_object_list(answer, src=0)
        if answer[1] is not None:
            raise TrainingError(answer[1])
        return answer[0]

    @contextmanager
    def in_turn(self) -> Iterator[None]:
        """Let the first process go first, then the first on each machine, then the others: caches are made once."""
        turn = 0 if self.first else 1 if self.local_rank == 0 else 2
        for _ in range(turn if self.world > 1 else 0):
            distributed.barrier()
        yield
        for _ in range(2 - turn if self.world > 1 else 0):
            distributed.barrier()

    def end(self) -> None:
        """Leave the group of processes."""
        if self.world > 1 and distributed.is_initialized():
            distributed.destroy_process_group()


def launched() -> TorchElasticEnvironment | SLURMEnvironment | None:
    """What began this process as one of several (torchrun or SLURM's srun), None where nothing did.

    Raises TrainingError where SLURM's settings cannot be used.
    """
    try:
        if TorchElasticEnvironment.detect():
            return TorchElasticEnvironment()
        return SLURMEnvironment(auto_requeue=False) if SLURMEnvironment.detect() else None
    except RuntimeError as error:
        raise TrainingError(f"SLURM: {error}") from error


def is_first() -> bool:
    """Whether this process is the first of a run, or the only one."""
    environment = launched()
    return environment is None or environment.global_rank() == 0


def wanted(config: TrainConfig) -> int:
    """Processes wanted on this machine; with devices "auto", as many GPUs as cut every batch into equal parts."""
    options = config.trainer
    if options.devices != "auto":
        return options.devices
    gpus = torch.cuda.device_count() if options.accelerator != "cpu" else 0
    fitting = [n for n in range(2, gpus + 1) if not _uneven(config, n)]
    found = max(fitting, default=1)
    if found < gpus:
        log.warning("%d of %d GPUs are used: every batch_clips must be a multiple of their number", found, gpus)
    return found


def join(options: TrainerConfig) -> Processes:
    """Find out which process this is and meet the others.

    Raises TrainingError where the configuration's `devices` are not the processes that were begun on each machine.
    """
    environment = launched()
    if environment is None or environment.world_size() == 1:
        return Processes()
    world = environment.world_size()
    if isinstance(environment, TorchElasticEnvironment):
        nodes = int(os.environ.get("GROUP_WORLD_SIZE", 1))
    else:
        nodes = int(os.environ.get("SLURM_JOB_NUM_NODES", os.environ.get("SLURM_NNODES", 1)))
    if options.devices not in ("auto", world // nodes):
        raise TrainingError(
            f"trainer.devices={options.devices}, but {world // nodes} processes were begun on each machine: make them "
            "the same (torchrun's --nproc-per-node, SLURM's --ntasks-per-node), or leave devices out"
        )
    place = Processes(environment.global_rank(), world, environment.local_rank(), nodes)
    if not distributed.is_initialized():
        os.environ.setdefault("MASTER_ADDR", environment.main_address)
        os.environ.setdefault("MASTER_PORT", str(environment.main_port))
        gpu = options.accelerator != "cpu" and torch.cuda.is_available()
        if gpu:
            torch.cuda.set_device(place.local_rank)
        distributed.init_process_group(
            "cpu:gloo,cuda:nccl" if gpu else "gloo",
            rank=place.rank,
            world_size=world,
            timeout=timedelta(days=1),  # the others wait while the first renders episodes or decodes videos
        )
    return place


def _uneven(config: TrainConfig, processes: int) -> list[str]:
    """Parts whose batch cannot be cut into equal parts."""
    trained = ("stage1", "synthesis", *(["motion"] if config.model.motion_width else []), "stage2")
    names = [name for name in trained if getattr(config, name).steps]
    parts = processes * config.trainer.accumulate_grad_batches
    return [name for name in names if getattr(config, name).batch_clips % parts]


def check_batches(config: TrainConfig, processes: int) -> None:
    """Raise TrainingError where a part's batch cannot be cut into equal parts."""
    accumulated = config.trainer.accumulate_grad_batches
    parts = processes * accumulated
    for name in _uneven(config, processes):
        raise TrainingError(
            f"{name}.batch_clips={getattr(config, name).batch_clips} cannot be cut into {parts} equal parts "
            f"({processes} processes, accumulate_grad_batches={accumulated}): make it a multiple of {parts}"
        )


def spread(count: int, work: Callable[[dict[str, Any]], Any], options: dict[str, Any]) -> Any:
    """Run `work(options)`, a function of a module, in `count` processes of this machine; returns what the first does.

    Raises TrainingError with the sentence of the process that failed first, if it is one of this package.
    """
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    for noisy in ("torch.distributed.elastic", "torchelastic", "torch.multiprocessing"):
        logging.getLogger(noisy).setLevel(logging.CRITICAL)  # they print a failure's traceback several times over
    threads = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = threads or str(max(1, len(os.sched_getaffinity(0)) // count))
    launch = LaunchConfig(
        min_nodes=1, max_nodes=1, nproc_per_node=count, run_id=uuid4().hex, rdzv_backend="c10d",
        rdzv_endpoint="localhost:0", max_restarts=0,
    )  # fmt: skip
    try:
        return elastic_launch(launch, _work)(work, options)[0]
    except ChildFailedError as error:
        _, failure = error.get_first_failure()
        told = failure.error_file_data.get("message")
        told = told.get("message", "") if isinstance(told, dict) else str(told)
        if not told.startswith(_OURS):
            raise
        raise TrainingError(told.removeprefix(_OURS)) from None
    finally:
        if threads is None:  # it was for those processes alone: another number of threads rounds otherwise
            del os.environ["OMP_NUM_THREADS"]


_OURS = f"{TrainingError.__name__}: "


def _work(work: Callable[[dict[str, Any]], Any], options: dict[str, Any]) -> Any:
    try:
        return work(options)
    except Exception as error:
        # Only its words get from process to process.
        if type(error).__module__.startswith("gridkp_ros."):
            raise TrainingError(str(error)) from error
        raise
