"""d. NFE that reach the round-trip PSNR of 80-step uniform DDIM; e. a sweep against its runs without a shared store."""

import tempfile
from itertools import product
from pathlib import Path

import torch

from benchmarks.measuring import Row, clock
from unseen_diffusion.domains import load_split
from unseen_diffusion.domains.hubble import Hubble
from unseen_diffusion.models import DiffusersModel
from unseen_diffusion.priors import Isotropic
from unseen_diffusion.rejection import CalibratedTolerances, NoTolerances, Tolerances
from unseen_diffusion.runs.stages import Stages
from unseen_diffusion.solvers.sampling import denoise, invert
from unseen_diffusion.solvers.settings import SolverSettings
from unseen_diffusion.store.artefacts import Store
from unseen_diffusion.utils.images import dequantise

IMAGES, T = 6, 500.0
BUDGETS = (5, 6, 7, 8, 10, 12, 14, 16, 20, 24, 32, 48)
METHODS = (
    ("ddim", "karras", "full"),
    ("dpmpp_2m", "karras", "full"),
    ("dpmpp_2m", "karras", "half"),
    ("dpmpp_2m", "log_snr", "full"),
    ("trapezoid", "karras", "full"),
    ("heun", "karras", "full"),
    ("rk4", "karras", "full"),
)


def hubble(count: int) -> torch.Tensor:
    """Reference images of an unseen domain, uint8."""
    return load_split(Hubble(references=230, validation=70, heldout=200), 32, 3).references[:count]


def round_trip(model: DiffusersModel, images: torch.Tensor, solver: SolverSettings) -> float:
    """Mean PSNR in dB of inversion to T and back, peak 2."""
    grid = solver.make_grid(model.schedule, T)
    latents = invert(model, images, grid, [T], solver)[T]
    back = denoise(model, latents, grid, 0.0, 0, solver=solver)
    errors = (back - images).double().square().mean((1, 2, 3)).sqrt()
    return float((20 * torch.log10(2 / errors)).mean())


def evaluations(device: torch.device) -> list[Row]:
    """Smallest tried NFE per direction whose round trip is no worse than that of 80 + 80 DDIM steps."""
    model, images = DiffusersModel("embedded:photos32", device=device), dequantise(hubble(IMAGES))
    target = round_trip(model, images, SolverSettings(name="ddim", grid="uniform_t", steps=80))
    rows = [Row("ddim, uniform_t, 80 evaluations a direction", target, "dB")]
    for name, grid, end in METHODS:
        for steps in BUDGETS:
            solver = SolverSettings(name=name, grid=grid, steps=steps, clean_end=end)
            if (found := round_trip(model, images, solver)) >= target:
                label = f"{name}, {grid}" + (", half clean end" if end == "half" else "")
                floor = f"80; {found:.1f} dB at {steps}"
                rows.append(Row(label, steps, "evaluations", floor, steps / 80, "order of the method"))
                break
    return rows


def sweep(device: torch.device) -> list[Row]:
    """e. Mixing steps x etas x tolerances with one store, against every run with its own store."""
    model, images = DiffusersModel("embedded:photos32", device=device), hubble(16)
    steps, etas = (300.0, 500.0), (0.0, 0.2, 0.4)
    judges: dict[str, Tolerances] = {"none": NoTolerances(), "calibrated": CalibratedTolerances(k=5)}
    points = list(product(steps, etas, judges))
    solver, count = SolverSettings(name="dpmpp_2m", grid="karras", steps=6), 12
    denoised: set[tuple[float, float, int]] = set()

    def run(stages: Stages, t: float, eta: float, judge: str, record: tuple[float, ...]) -> None:
        inverted = stages.inversion(model, images, solver, t, record)[1]
        prior = stages.prior(Isotropic(), {"name": "isotropic"}, inverted, None)
        chosen = stages.selection(prior, inverted, judges[judge], {"name": judge}, count, 0, 20000, False)[1]
        stages.denoising(model, chosen, solver, eta, 0)
        denoised.update((t, eta, index) for index in chosen.indices)

    def spent(shared: bool) -> tuple[int, float]:
        before, started = model.evaluations, clock(device)
        with tempfile.TemporaryDirectory() as folder:
            for number, (t, eta, judge) in enumerate(points):
                stages = Stages(Store(Path(folder) / ("shared" if shared else str(number))))
                run(stages, t, eta, judge, steps if shared else ())
        return model.evaluations - before, clock(device) - started

    together, alone = spent(shared=True), spent(shared=False)
    intervals = len(solver.make_grid(model.schedule, max(steps), steps).up) - 1
    floor = len(images) * intervals + len(denoised) * solver.steps
    words = f"one trajectory + {len(denoised)} distinct denoisings: {floor}"
    label = f"{len(steps)} steps x {len(etas)} etas x {len(judges)} tolerances"
    limit = "candidates that two tolerances accept are denoised twice"
    return [
        Row(f"{label}, one sweep", together[0], "evaluations", words, together[0] / floor, limit),
        Row(f"{label}, points alone", alone[0], "evaluations", words, alone[0] / floor, "an inversion each"),
        Row(f"{label}, alone over sweep", alone[0] / together[0], "x evaluations"),
        Row(f"{label}, alone over sweep", alone[1] / together[1], "x seconds"),
    ]
