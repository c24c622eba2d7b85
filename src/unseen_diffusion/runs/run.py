"""One run: its stages in order, its searches, and the images that it generates."""

import json
import logging
from copy import copy
from dataclasses import asdict, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unseen_diffusion.domains.base import LABELS, pool_of
from unseen_diffusion.domains.split import clusters_of
from unseen_diffusion.models.base import DiffusionModel, ModelSpec
from unseen_diffusion.models.pipeline import DiffusersModel
from unseen_diffusion.models.trial import try_model
from unseen_diffusion.pipeline.steps import LatentSet
from unseen_diffusion.reports.populations import NAMES
from unseen_diffusion.reports.sheets import rows_sheet
from unseen_diffusion.runs.bandwidth import Bandwidth, find_bandwidth
from unseen_diffusion.runs.keys import section
from unseen_diffusion.runs.methods.base import Generated
from unseen_diffusion.runs.mixing import Candidate, MixingStep, departure, find_step, separation
from unseen_diffusion.runs.settings import RunSettings, check_counts
from unseen_diffusion.runs.stages import Stages
from unseen_diffusion.scores.features.base import FeatureExtractor
from unseen_diffusion.scores.features.pixels import Pixels
from unseen_diffusion.scores.kernel import kid
from unseen_diffusion.scores.suite import Views
from unseen_diffusion.store.artefacts import Artefact, Store
from unseen_diffusion.utils.configs import build
from unseen_diffusion.utils.errors import InputError

log = logging.getLogger(__name__)


@lru_cache(maxsize=2)
def _model(config: str, device: torch.device) -> DiffusionModel:
    """A model by its config as JSON, tried on one image: the points of a sweep in one process share it."""
    plain = json.loads(config)
    model: DiffusionModel = build(plain, "model", kind=DiffusionModel, device=device)
    where = f"model._target_={plain['_target_']}"
    try_model(model, where, f"{where}: encode and decode")
    return model


def _check_spec(model: DiffusionModel, expected: ModelSpec) -> None:
    """Refuses a model of other images than its config announced, by which the domain is read."""
    built, announced = ((spec.channels, spec.size) for spec in (model.spec, expected))
    if built != announced:
        raise InputError(
            f"model.channels={announced[0]}, model.size={announced[1]}: the model has {built[0]} channels and size "
            f"{built[1]}; set them in its config"
        )


@lru_cache(maxsize=2)
def _extractor(config: str) -> FeatureExtractor:
    return build(json.loads(config), "features")


def check_readable(settings: RunSettings, split: Artefact) -> None:
    """Checks that enough images are left after decoding has skipped unreadable ones.

    Raises:
        InputError: too few.
    """
    s, skipped = settings, split.facts["skipped"]
    if not skipped:
        return
    counts = {part: len(split.tensors[part]) for part in ("references", "validation", "heldout")}
    try:
        check_counts(counts, s.prior, s.tolerances, s.scores, s.mixing_search)
    except InputError as error:
        total = len(pool_of(s.domain, s.spec.size, s.spec.channels).names)
        left = ", ".join(f"{count} {LABELS[part]}" for part, count in counts.items())
        raise InputError(
            f"domain={s.domain.name}: only {total - skipped} of {total} files are readable, which leaves {left}; "
            "re-save the others as PNG, or add images"
        ) from error


class Run:
    """Everything that one run needs, and the stages bound to it."""

    def __init__(self, settings: RunSettings):
        self.settings = settings
        plain = settings.plain
        self.stages = Stages(
            Store(plain["paths"]["store"], section(plain, "paths").local_artefacts),
            settings.batch_size,
            settings.progress,
            settings.deterministic,
        )
        # Networks come first: a missing or damaged file should stop a run before its images are decoded and inverted.
        self.extractor = _extractor(json.dumps(plain["features"], sort_keys=True))
        self.model = _model(json.dumps(plain["model"], sort_keys=True), settings.device)
        _check_spec(self.model, settings.spec)
        self.split = self.stages.split(settings.domain, settings.spec)
        check_readable(settings, self.split)

    def at(self, **changes: Any) -> "Run":
        """The same run at other settings (t, eta, samples), over the same stages."""
        if "t" in changes and self.settings.record:  # one trajectory serves them all
            changes |= {"record": tuple(sorted({self.settings.t, *self.settings.record}))}
        other = copy(self)
        for name in ("references", "tuned"):
            other.__dict__.pop(name, None)
        other.settings = replace(self.settings, **changes)
        return other

    def views(self, key: str, images: Tensor) -> Views:
        """Features and pixels of images; ``key`` identifies them."""
        device = self.settings.device
        features = self.stages.features(self.extractor, key, images, device)
        return Views(features, self.stages.features(Pixels(), key, images, device), images)

    def views_of(self, part: str) -> Views:
        """Features, pixels and clusters of the references, validation or held-out images."""
        return self.views(f"{self.split.key}/{part}", self.split.tensors[part])._replace(clusters=self.clusters(part))

    def clusters(self, part: str) -> Tensor:
        """A number (n,) for each of the references, validation or held-out images; those of one cluster share it."""
        s = self.settings
        pool = pool_of(s.domain, s.spec.size, s.spec.channels)
        numbers = dict(zip(pool.names, clusters_of(pool).tolist(), strict=True))
        return torch.tensor([numbers[name] for name in self.split.facts["names"][NAMES[part]]], dtype=torch.int64)

    def denoised(self, latents: LatentSet, eta: float) -> Artefact:
        """Denoises latents with this run's solver and seed."""
        return self.stages.denoising(self.model, latents, self.settings.solver, eta, self.settings.seed)

    @cached_property
    def references(self) -> LatentSet:
        """The inverted references."""
        s = self.settings
        return self.stages.inversion(self.model, self.split.tensors["references"], s.solver, s.t, s.record)[1]

    @cached_property
    def tuned(self) -> tuple[Artefact, DiffusersModel]:
        """The model tuned on the references, stopped by the validation images; the base model stays as it is."""
        tuning = self.settings.method.tuning
        if tuning is None or not isinstance(self.model, DiffusersModel):
            raise ValueError("tuning: this run's method tunes nothing")
        references, validation = (self.split.tensors[part] for part in ("references", "validation"))
        return self.stages.tuned(self.model, references, validation, tuning, self.settings.seed)

    def own_latents(self, count: int) -> LatentSet:
        """The base model's own domain at the mixing step."""
        s = self.settings
        return self.stages.base_latents(self.model, s.solver, s.t, count, s.seed)

    def own_images(self) -> Artefact:
        """The base model's own samples, as many as this run generates."""
        return self.denoised(self.own_latents(self.settings.samples), self.settings.eta)


def generate(run: Run) -> Generated:
    """The images of the run's method, with what they cost."""
    before = len(run.stages.used)
    generated = run.settings.method.generate(run)
    used = [artefact for _, artefact in run.stages.used[before:]]
    evaluations = sum(artefact.facts.get("evaluations", 0) for artefact in used)
    return replace(generated, evaluations=evaluations, seconds=sum(artefact.seconds for artefact in used))


def searched(run: Run, folder: Path | None) -> tuple[Run, dict[str, Any]]:
    """Runs the searches: returns the run at the mixing step and bandwidth they choose, and their results.

    Writes the sheet of a bandwidth search into ``folder``, if one is given.
    """
    found: dict[str, Any] = {}
    if run.settings.mixing_search:
        step = search_step(run)
        log.info("mixing: t = %g (%s)", step.t, step.criterion)
        run, found["mixing"] = run.at(t=step.t), asdict(step)
    if search := run.settings.bandwidth_search:
        steps = run.settings.record if search.recorded else ()
        every = {t: search_bandwidth(run.at(t=t)) for t in dict.fromkeys((run.settings.t, *steps))}
        for t, bandwidth in every.items():
            log.info("bandwidth at t = %g: %s", t, bandwidth)
        chosen = every.pop(run.settings.t)
        if folder:
            bandwidth_sheet(run, chosen, folder / "bandwidth.png")
        recorded = [{"t": t, **asdict(bandwidth)} for t, bandwidth in every.items()]
        run, found["bandwidth"] = run.at(eta=chosen.eta), {**asdict(chosen), "recorded": recorded}
    return run, found


def search_step(run: Run) -> MixingStep:
    """The mixing step by the criterion of the run's search."""
    s, stages = run.settings, run.stages
    search = s.mixing_search
    if search is None:
        raise ValueError("mixing: this run's mixing step is given; nothing to search")

    def by_latents(t: float) -> Candidate:
        return Candidate(t, departure(stages, run.at(t=t).references, search.statistic, s.seed))

    def by_distance(t: float) -> Candidate:
        references = run.at(t=t).references
        base_images = run.denoised(run.own_latents(search.samples), 0.0).tensors["images"]
        inverted = stages.inversion(run.model, base_images, s.solver, t, s.record)[1]
        return Candidate(t, separation(references, inverted, s.seed))

    def by_samples(t: float) -> Candidate:
        images = generate(run.at(t=t, samples=search.samples)).images
        generated = run.views(images.key, images.tensors["images"]).features
        distance = kid(generated, run.views_of("validation").features)
        return Candidate(t, distance.value, distance.standard_error)

    judges = {"gaussianity": by_latents, "separability": by_distance, "validation": by_samples}
    return find_step(search, judges[search.criterion])


def search_bandwidth(run: Run) -> Bandwidth:
    """The bandwidth at the run's mixing step."""
    search = run.settings.bandwidth_search
    if search is None:
        raise ValueError("bandwidth: this run's eta is given; nothing to search")
    latents = run.references.first(search.references)
    originals = run.split.tensors["references"][: search.references]

    def psnr_at(eta: float) -> Tensor:
        return run.stages.fidelity(originals, run.denoised(latents, eta)).tensors["psnr"]

    return find_bandwidth(search.on(run.split.tensors["references"]), psnr_at)


def bandwidth_sheet(run: Run, found: Bandwidth, path: Path, columns: int = 12) -> None:
    """The first references and their reconstructions at every eta tried."""
    latents = run.references.first(found.references)
    rows = [("original", run.split.tensors["references"][:columns])]
    for point in found.curve:
        images = run.denoised(latents, point.eta).tensors["images"][:columns]
        chosen = "   <- chosen" if point.eta == found.eta else ""
        rows.append((f"eta {point.eta:g}: PSNR {point.psnr_mean:.1f} +- {point.psnr_se:.1f} dB{chosen}", images))
    s = run.settings
    rows_sheet(rows, f"{s.domain.name} through {run.model.name}, t = {s.t:g}: {found.criterion}", path)
