"""Shared by all benchmarks: rows, interleaved timing, and the hardware."""

import os
import platform
import statistics as stats
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from unseen_diffusion.utils.seeds import generator


@dataclass(frozen=True)
class Row:
    """One measured value.

    Attributes:
        name: what was measured.
        value: the figure.
        unit: its unit.
        floor: the best that could be had, in words and numbers.
        distance: value over floor, or floor over value where more is better; None where no number tells.
        limit: what keeps it from the floor.
    """

    name: str
    value: float
    unit: str
    floor: str = ""
    distance: float | None = None
    limit: str = ""


Jobs = Mapping[str, Callable[[], Any]]


def clock(device: torch.device) -> float:
    """Processor seconds of this process; on a GPU the wall time after it has become idle."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        return time.perf_counter()
    return time.process_time()


def seconds(job: Callable[[], Any], device: torch.device) -> float:
    """Seconds of one call."""
    started = clock(device)
    job()
    return clock(device) - started


def interleaved(jobs: Jobs, rounds: int, device: torch.device) -> dict[str, list[float]]:
    """Seconds of each job; the jobs take turns in every round, after one warm-up each."""
    for job in jobs.values():
        job()
    times: dict[str, list[float]] = {name: [] for name in jobs}
    for _ in range(rounds):
        for name, job in jobs.items():
            times[name].append(seconds(job, device))
    return times


def ratio(times: Mapping[str, list[float]], name: str, base: str) -> float:
    """Median over the rounds of one job's time over another's."""
    return stats.median(a / b for a, b in zip(times[name], times[base], strict=True))


def rate(count: float, times: list[float]) -> float:
    """Rate per second, from the median time."""
    return count / stats.median(times)


def normal(*shape: int, stream: int = 0) -> torch.Tensor:
    """Standard normal float32 numbers, always the same."""
    return torch.randn(shape, generator=generator(0, "benchmark", stream))


def matrix_rate(device: torch.device, dtype: torch.dtype = torch.float32, size: int = 1024) -> float:
    """FLOP per second of a square matrix product: the rate no network exceeds."""
    a = normal(size, size).to(device, dtype)
    times = interleaved({"product": lambda: a @ a}, 7, device)["product"]
    return 2 * size**3 / min(times)


def hardware(device: torch.device) -> str:
    """Describes the processor or GPU, its cores, load and threads."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    name = names[0] if names else platform.processor() or platform.machine()
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")
    card = f"{torch.cuda.get_device_name(device)}, " if device.type == "cuda" else ""
    return (
        f"{card}{name}, {os.cpu_count()} cores, {torch.get_num_threads()} torch thread(s), "
        f"load {load:.1f} at the start, torch {torch.__version__}"
    )
