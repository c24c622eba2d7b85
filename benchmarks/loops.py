"""Our loops against bare forward passes of the network, and against the loops of other libraries."""

import torch
from torch import Tensor

from benchmarks.measuring import Row, interleaved, normal, rate, ratio
from benchmarks.peers import diffusers_loop, official
from unseen_diffusion.models import DiffusersModel
from unseen_diffusion.models.unet import unet_forward
from unseen_diffusion.solvers.grids import make_grid
from unseen_diffusion.solvers.sampling import denoise, invert

SHAPES = ((1, 12), (8, 4), (64, 2))  # batch, steps
GOAL = "bare forwards (goal: 1.03)"


def network_of(model: DiffusersModel) -> official.Network:
    """The network's eps for a state at some timesteps."""
    return lambda x, t: unet_forward(model.unet, x, t, model.factor)


def overhead(device: torch.device) -> list[Row]:
    """a. Time of inversion and denoising over that of as many bare forward passes of the same batch and dtype."""
    model = DiffusersModel("embedded:photos32", device=device)
    rows = []
    for batch, steps in SHAPES:
        x = normal(batch, *model.shape)
        here = x.to(device)
        t = torch.full((batch,), 250.0, device=device)
        grid = make_grid(model.schedule, "uniform_t", steps, 500)

        @torch.inference_mode()
        def bare(here: Tensor = here, t: Tensor = t, steps: int = steps) -> None:
            for _ in range(steps):
                unet_forward(model.unet, here, t, model.factor)

        jobs = {
            "bare": bare,
            "inversion": lambda x=x, grid=grid: invert(model, x, grid, [500], batch_size=len(x)),
            "denoising": lambda x=x, grid=grid: denoise(model, x, grid, 0.0, 0, batch_size=len(x)),
            "denoising, eta 0.2": lambda x=x, grid=grid: denoise(model, x, grid, 0.2, 0, batch_size=len(x)),
        }
        times = interleaved(jobs, 5, device)
        rows.append(Row(f"bare forwards, batch {batch}", rate(batch * steps, times["bare"]), "evaluations/s"))
        for name in list(jobs)[1:]:
            over = ratio(times, name, "bare")
            limit = "noise of one stream an image" if "eta" in name else "elementwise steps, Python between them"
            rows.append(Row(f"{name}, batch {batch}", over, "x bare", GOAL, over, limit))
    return rows


def peers(device: torch.device) -> list[Row]:
    """b. Round trips per second against the official loop and diffusers' schedulers, and the results' equality."""
    model = DiffusersModel("embedded:photos32", device=device)
    network = network_of(model)
    rows = [*_equality(model, network, device)]
    steps = 4
    grid = make_grid(model.schedule, "trailing", steps, 999)
    times_ = official.timesteps(999, steps)
    alphas = _alphas(model).to(device)
    for batch in (1, 8, 64):
        x = normal(batch, *model.shape)

        def ours(x: Tensor = x) -> Tensor:
            up = invert(model, x, grid, [999], batch_size=len(x))[999]
            return denoise(model, up, grid, 0.2, 0, batch_size=len(x))

        def theirs(x: Tensor = x) -> Tensor:
            up = diffusers_loop.invert(network, x.to(device), steps)
            return diffusers_loop.denoise(network, up, steps, 0.2, 0).cpu()

        def released(x: Tensor = x) -> Tensor:
            up = official.invert(network, x.to(device), alphas, times_)
            return official.denoise(network, up, alphas, times_, 0.2, 0).cpu()

        jobs = {"ours": ours, "diffusers": theirs, "official": released}
        if batch == 64:  # the loop handles single images, so its rate is that of a batch of 8
            jobs.pop("official")
        found = interleaved(jobs, 3, device)
        rows.append(Row(f"ours, batch {batch}", rate(batch, found["ours"]), "images/s", f"{steps} + {steps} steps"))
        floors = {"diffusers": "never slower: 1", "official": "one image a call, 3 + 4 evaluations: 0.875 at batch 1"}
        for name in list(jobs)[1:]:
            gain = ratio(found, name, "ours")
            rows.append(Row(f"{name} over ours, batch {batch}", gain, "x time", floors[name], None, "the network"))
    return rows


def _alphas(model: DiffusersModel) -> Tensor:
    """alpha-bar of every timestep, float32."""
    return torch.tensor([model.schedule.node(float(t)).alpha ** 2 for t in range(model.schedule.timesteps)])


def _equality(model: DiffusersModel, network: official.Network, device: torch.device) -> list[Row]:
    """Largest differences where the arithmetic is the same; states are of order 1."""
    x, steps = normal(3, *model.shape, stream=1).clamp(-1, 1), 10
    trailing = make_grid(model.schedule, "trailing", steps, 999)
    paper = make_grid(model.schedule, "paper", steps, 999)
    alphas, times = _alphas(model).to(device), official.timesteps(999, steps)

    def difference(a: Tensor, b: Tensor) -> float:
        return float((a - b.cpu()).abs().max())

    up, up_paper = invert(model, x, trailing, [999])[999], invert(model, x, paper, [999])[999]
    here = x.to(device)
    pairs = {
        "inversion, diffusers asked at the lower end": (up, diffusers_loop.invert(network, here, steps, lower=True)),
        "inversion, official": (up_paper, official.invert(network, here, alphas, times)),
        "denoising, diffusers": (
            denoise(model, x, trailing, 0.0, 0),
            diffusers_loop.denoise(network, here, steps, 0.0, 0),
        ),
        "denoising, official": (
            denoise(model, x, paper, 0.0, 0),
            official.denoise(network, here, alphas, times, 0.0, 0),
        ),
    }
    return [
        Row(f"equality: {name}", difference(*pair), "largest difference", "0", None, "float32 rounding")
        for name, pair in pairs.items()
    ]
