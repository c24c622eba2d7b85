"""Options that trade rounding for speed, on the bundled network: their gain, and the change of the results."""

import torch

from benchmarks.measuring import Row, interleaved, matrix_rate, normal, rate
from benchmarks.quality import hubble
from unseen_diffusion.models import DiffusersModel
from unseen_diffusion.models.schedules import Node
from unseen_diffusion.scores.features.base import extract
from unseen_diffusion.scores.features.embedded import EmbeddedFeatures
from unseen_diffusion.scores.frechet import frechet_distance
from unseen_diffusion.solvers.sampling import denoise, invert
from unseen_diffusion.solvers.settings import SolverSettings
from unseen_diffusion.utils.images import dequantise, quantise

WAYS = {
    "float32": {},
    "channels_last": {"channels_last": True},
    "bfloat16": {"dtype": "bfloat16"},
    "channels_last, compile": {"channels_last": True, "compile": True},
}
FLOPS = 2 * 206.2e6  # of photos32, counted
EFFECT, STEPS = 16, 4


def options(device: torch.device) -> list[Row]:
    """NFE per second at batch 8 (64 on a GPU), and the change of an inversion and of a round trip."""
    models = {name: DiffusersModel("embedded:photos32", device=device, **chosen) for name, chosen in WAYS.items()}
    batch = 8 if device.type == "cpu" else 64
    node: Node = models["float32"].schedule.node(250.0)
    x = normal(batch, *models["float32"].shape).to(device)
    times = interleaved({name: lambda m=model: m.predict(x, node) for name, model in models.items()}, 3, device)
    peak = matrix_rate(device) / FLOPS
    rows = []
    for name, spent in times.items():
        words = f"float32 matrix rate: {peak:.0f}/s"
        value = rate(batch, spent)
        rows.append(Row(f"{name}, batch {batch}", value, "evaluations/s", words, peak / value, "convolutions"))
    return rows + _effects(models)


def _effects(models: dict[str, DiffusersModel]) -> list[Row]:
    """Changes of latents (RMS; they are of order 1), images (grey levels) and a score (FID to the references)."""
    images = hubble(EFFECT)
    solver = SolverSettings(name="dpmpp_2m", grid="karras", steps=STEPS)
    made = {}
    for name, model in models.items():
        grid = solver.make_grid(model.schedule, 500)
        latents = invert(model, dequantise(images), grid, [500], solver, batch_size=8)[500]
        made[name] = latents, quantise(denoise(model, latents, grid, 0.2, 0, solver=solver, batch_size=8))
    extractor = EmbeddedFeatures()
    target, (latents, pictures) = extract(extractor, images), made.pop("float32")
    score = frechet_distance(extract(extractor, pictures), target)
    rows = []
    for name, (ours, shown) in made.items():
        rms = float((ours - latents).square().mean().sqrt())
        levels = float((shown.float() - pictures.float()).abs().mean())
        other = frechet_distance(extract(extractor, shown), target)
        words = f"images differ by {levels:.2g} of 255 on average; FID {other:.4g} for {score:.4g}"
        rows.append(Row(f"{name}: difference of latents to float32", rms, "RMS", words, None, "rounding"))
    return rows
