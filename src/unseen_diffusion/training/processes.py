"""The processes of one training (one, or those that ``accelerate launch`` started) and their mixed precision."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
from accelerate import Accelerator, InitProcessGroupKwargs
from accelerate.state import AcceleratorState
from torch import nn

from unseen_diffusion.utils.errors import InputError, first_line

PATIENCE = timedelta(hours=6)  # longest wait of the other processes while the first decodes images or samples


class Processes:
    """The processes and the device on which a training runs.

    Attributes:
        device: of this process.
        count: number of processes.
        first: True in the process that writes files and prints.
    """

    def __init__(self, device: torch.device, precision: str) -> None:
        """Connects to the other processes, if there are any.

        Args:
            device: the user's choice; each of several processes gets a device of its type.
            precision: ``bf16``, ``fp16`` or ``no`` (float32).

        Raises:
            InputError: the device cannot compute in this precision, or several processes would share it.
        """
        AcceleratorState._reset_state(reset_partial_state=True)  # a sweep trains several times in one process
        patience = InitProcessGroupKwargs(timeout=PATIENCE)
        try:
            self.accelerator = Accelerator(
                mixed_precision=precision,
                cpu=device.type == "cpu",
                device_placement=False,  # else cuda:1 would become cuda:0
                kwargs_handlers=[patience],
            )
        except ValueError as error:
            reason = first_line(error)
            raise InputError(f"training.loop.{precision}=true: {reason}; set it to false") from error
        self.count = self.accelerator.num_processes
        self.first = self.accelerator.is_main_process
        if self.count > 1 and device.index is not None:
            raise InputError(f"device={device}: {self.count} processes cannot share one device; set device=auto")
        assigned = self.accelerator.device
        if precision == "fp16" and assigned.type == "cpu":  # accelerate would silently compute in float32
            raise InputError(
                "training.loop.fp16=true: not supported on a CPU; set training.loop.bf16=true and fp16=false"
            )
        self.device = device if self.count == 1 and assigned.type == device.type else assigned

    def prepare(self, network: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[nn.Module, torch.optim.Optimizer]:
        """The network in mixed precision, with gradients averaged over the processes; and its optimizer."""
        prepared = self.accelerator.prepare_model(network)
        return prepared, self.accelerator.prepare_optimizer(optimizer, device_placement=False)

    def parts(self, batch_size: int, accumulate: int) -> list[slice]:
        """This process's share of a batch, in ``accumulate`` equal parts.

        Raises:
            InputError: the batch cannot be divided into so many parts.
        """
        size, rest = divmod(batch_size, self.count * accumulate)
        if rest:
            raise InputError(
                f"training.loop.batch_size={batch_size}: not divisible by {self.count} processes x "
                f"training.loop.accumulate={accumulate}; set it to {batch_size - rest or self.count * accumulate}"
            )
        start = self.accelerator.process_index * accumulate * size
        return [slice(start + part * size, start + (part + 1) * size) for part in range(accumulate)]

    @contextmanager
    def backward(self, network: nn.Module, last: bool) -> Iterator[None]:
        """Context of a part's forward and backward pass; processes exchange gradients after the last part only."""
        if last:
            yield
        else:
            with self.accelerator.no_sync(network):
                yield

    def mean(self, value: torch.Tensor) -> float:
        """The mean of a value over the processes."""
        return float(self.accelerator.reduce(value, "mean"))

    def wait(self) -> None:
        """Returns when all processes have called it."""
        self.accelerator.wait_for_everyone()
