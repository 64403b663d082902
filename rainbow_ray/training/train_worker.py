"""The functions that a TorchTrainer runs: in each of its workers, or in the process of the command.

Ray Train's controller imports this module as well, so that heavy ones are imported only where the function runs.
"""

from __future__ import annotations

import functools
import traceback
from typing import Any


def train_worker(arguments: dict[str, Any]) -> Exception | None:
    """Run fits in one worker of a TorchTrainer.

    An error for users is returned rather than raised: all workers have it (see `ProcessGroup.shares_errors`), and Train
    would restart them only to meet it again. A defect of one of several workers is raised, and Train restarts them.

    Args:
        arguments: `work`, a reference to the context of the fits and the fits; `threads`, the number of threads.

    Returns:
        The error that ended the fits, or None.

    Raises:
        Exception: A defect of one of several workers, or an error that the others do not know of.
    """
    import ray
    import ray.train
    import ray.train.torch
    import torch
    from ray.exceptions import RayError

    from rainbow_ray.distributed.assigned_resources import require_assigned_gpu
    from rainbow_ray.distributed.process_group import ProcessGroup, is_shared
    from rainbow_ray.training.cross_validation import run_jobs
    from rainbow_ray.training.fit_errors import user_facing_error
    from rainbow_ray.utils.errors import InputError, TrainingError

    worker = ray.train.get_context()
    torch.set_num_threads(arguments["threads"])
    # Buffers are equal on all workers from the start. Once averaged, gradients are views of what was communicated.
    options = {"broadcast_buffers": False, "gradient_as_bucket_view": True}
    wrap = functools.partial(ray.train.torch.prepare_model, move_to_device=False, parallel_strategy_kwargs=options)
    process_group = ProcessGroup(worker.get_world_rank(), worker.get_world_size(), wrap)
    try:
        with process_group.shares_errors():
            try:
                context, jobs = ray.get(arguments["work"])
                require_assigned_gpu(context.config.training.device)
                run_jobs(context, jobs, process_group)
            except Exception as error:  # Ray wraps errors of the tasks that read songs for this worker
                known_error = user_facing_error(error)
                if known_error is None or known_error is error:
                    raise
                raise known_error from error
    except (InputError, TrainingError) as error:
        if process_group.size > 1 and not is_shared(error):
            raise  # the others wait for this one
        return error
    except Exception as error:
        if process_group.size > 1 or isinstance(error, RayError):  # Ray's own errors are of lost nodes and objects
            raise
        return RuntimeError(f"a worker failed:\n{traceback.format_exc()}")
    return None


def train_in_process(arguments: dict[str, Any]) -> None:
    """Run fits in the process that called a TorchTrainer in its local mode.

    Args:
        arguments: `work`, the context of the fits and the fits; `threads`, the number of threads.
    """
    from rainbow_ray.distributed.process_group import ProcessGroup
    from rainbow_ray.training.cross_validation import run_jobs
    from rainbow_ray.utils.threads import torch_threads

    context, jobs = arguments["work"]
    with torch_threads(arguments["threads"]):
        run_jobs(context, jobs, ProcessGroup())
