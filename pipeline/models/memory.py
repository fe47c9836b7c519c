"""A card's memory that runs out: recognised, tried once more, and told with the fix, all in one place."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import ParamSpec, TypeVar

import torch

from pipeline.errors import MachineError
from pipeline.pause import NoMemoryError

ArgumentsP = ParamSpec("ArgumentsP")
ResultT = TypeVar("ResultT")
# cuBLAS takes its workspace, CUDA its context and NCCL its buffers past PyTorch's allocator: these come as plain
# RuntimeErrors. NCCL's tells the last thing it logged, which is either of two.
_OTHER_SIGNS = (
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUBLAS_STATUS_NOT_INITIALIZED",  # what a handle of its own says where there is no room for one
    "CUDA error: out of memory",
    "Cuda failure 2 'out of memory'",
    "Failed to CUDA calloc",
)


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error says that the card's memory ran out."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _OTHER_SIGNS)


@contextlib.contextmanager
def memory_errors(message: str) -> Iterator[None]:
    """MachineError with `message` where the card's memory runs out in the block; the rest passes on."""
    try:
        yield
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise MachineError(message) from error


def retry_once(
    work: Callable[ArgumentsP, ResultT], *arguments: ArgumentsP.args, **keywords: ArgumentsP.kwargs
) -> ResultT:
    """Do the work; out of memory, clear and try once more at the same size, because another size is another plan.

    NoMemoryError where it runs out again: what is sealed is safe, and the same command may go on once there is room.
    """
    try:
        return work(*arguments, **keywords)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        # The failed frames hold tensors until this block is left.
    torch.cuda.empty_cache()
    try:
        return work(*arguments, **keywords)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise NoMemoryError(
            "the card's memory ran out twice in a row. End other programs that use the card (nvidia-smi lists them) "
            "and run this command again, or begin a new run directory with a smaller cache.batch_size"
        ) from error
