"""``UnseenDomainPipeline``: fit to images, call, save, share, as a ``diffusers.DiffusionPipeline``."""

import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from diffusers import DiffusionPipeline, ImagePipelineOutput
from torch import Tensor

from unseen_diffusion.models import DiffusersModel, DiffusionModel
from unseen_diffusion.models.options import Options
from unseen_diffusion.pipeline.hub import find_domain, is_local, pinned, upload
from unseen_diffusion.pipeline.pixels import OUTPUT_TYPES, from_pixels, to_pixels
from unseen_diffusion.pipeline.storage import Base, read_domain, write_domain
from unseen_diffusion.pipeline.unseen_domain import Evaluation, UnseenDomain, draw, fit_domain
from unseen_diffusion.priors import Prior, SampleCovariance
from unseen_diffusion.rejection import CalibratedTolerances, Rejection, Tolerances
from unseen_diffusion.solvers.grids import GridKind
from unseen_diffusion.solvers.settings import SolverSettings
from unseen_diffusion.utils.checked import Count, checked_value
from unseen_diffusion.utils.errors import InputError

STEPS, GRID = 16, "karras"


@dataclass
class UnseenDomainOutput(ImagePipelineOutput):
    """The result of a call of the pipeline.

    Attributes:
        images: a list of Pillow images; or float32 in [0, 1], (n, C, H, W) for ``pt``, (n, H, W, C) for ``np``.
        latents: (n, C, H, W) float32 at the mixing step.
        acceptance: share of the candidates drawn that was accepted, in (0, 1].
        proposals: candidates drawn.
        passes: how many of them satisfied each criterion.
    """

    images: Any
    latents: Tensor
    acceptance: float
    proposals: int
    passes: dict[str, int]


class UnseenDomainPipeline(DiffusionPipeline):
    """Generates images of a domain that a frozen diffusion model has never seen (arXiv 2310.09213).

    ``from_pretrained`` takes a base model, or a domain saved before; ``fit`` inverts reference images and fits a prior;
    a call draws, selects and denoises. ``fit`` and calls are deterministic in their seeds; the batch size changes
    nothing beyond float rounding.

    What is inherited from ``DiffusionPipeline``: ``components`` (the frozen model, under ``model``), ``config``,
    ``from_pipe`` (shares the model, not what was fitted) and ``set_progress_bar_config(disable=True)``; the bars' other
    settings are the library's own. The offloading and slicing methods do not reach into the frozen model.
    A saved domain is opened by this class's ``from_pretrained`` alone: it has no weights that ``DiffusionPipeline``'s
    could load.

    Args:
        model: a frozen model.
        base: its hub id, folder, or ``embedded:NAME``; without it the domain cannot be saved, nor the model moved.
        revision: of a hub id.

    Attributes:
        domain: the fitted domain, or None.
    """

    model: DiffusionModel

    def __init__(self, model: DiffusionModel, base: str | None = None, revision: str | None = None):
        super().__init__()
        self.register_modules(model=model)
        self.register_to_config(base=base, revision=revision)
        self.domain: UnseenDomain | None = None

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        revision: str | None = None,
        device: str | torch.device = "cpu",
        base: str | Path | None = None,
        **options: Any,
    ) -> "UnseenDomainPipeline":
        """Loads a base model, to be fitted later; or a saved unseen domain with its base model.

        Args:
            pretrained_model_name_or_path: a hub id or folder of either kind, or ``embedded:NAME``.
            revision: commit or branch of that hub id.
            device: where the network computes.
            base: of a saved domain: the base model's hub id or folder now, if it has changed.
            options: of a base model: condition, guidance, dtype, latent_scale, initial_seed (``DiffusersModel``).

        Raises:
            InputError: neither a model nor a domain, damaged files, or another base model than the domain was fitted
                with.
        """
        path = str(pretrained_model_name_or_path)
        folder = find_domain(path, revision)
        known = tuple(Options.__dataclass_fields__)
        if odd := [name for name in options if name not in known or folder is not None]:
            remedy = f"choose among {', '.join(known)}" if folder is None else "a saved domain brings its own"
            raise InputError(f"from_pretrained: {odd[0]}={options[odd[0]]} is not an option here; {remedy}")
        if folder is None:
            if base is not None:
                raise InputError(f"base={base}: {path} is no saved unseen domain; leave base out")
            model = DiffusersModel(path, revision, device, **options)
            return cls(model, path, pinned(path, revision))
        saved, domain = read_domain(folder)
        if base is not None:
            saved = replace(saved, path=str(base), revision=None)
        pipe = cls(_base_model(path, saved, device), saved.path, saved.revision)
        pipe.domain = domain
        return pipe

    def fit(
        self,
        images: Any,
        t: float = 500,
        prior: Prior | None = None,
        tolerances: Tolerances | None = None,
        steps: int = STEPS,
        solver: str | SolverSettings = "dpmpp_2m",
        grid: str = GRID,
        seed: int = 0,
        licence: str = "not stated",
        batch_size: int = 64,
    ) -> "UnseenDomainPipeline":
        """Inverts images to the mixing step, and fits a prior and the tolerances' bands to their latents.

        Args:
            images: a tensor (N, C, H, W) or an array (N, H, W, C), uint8 or floats in [0, 1]; a list of Pillow images
                or paths; or a folder. Other sizes than the model's are cropped to a centred square and resized.
            t: the mixing step.
            prior: by default ``SampleCovariance()``.
            tolerances: by default ``CalibratedTolerances()``; their bands are measured here, once.
            steps, grid: network evaluations per direction, and their spacing; of a ``solver`` given by name.
            solver: a name, or settings of the ``solver`` group.
            seed: of the measured bands.
            licence: one line about the images' terms, for the card of the saved domain.
            batch_size: images per network call.

        Returns:
            This pipeline.

        Raises:
            InputError: images, steps or settings that cannot work; before any network evaluation.
        """
        spec = self.model.spec
        settings = _settings(solver, grid, steps)
        _check_count("batch_size", batch_size)
        self.domain = fit_domain(
            Evaluation(self.model, settings, batch_size, self._shows_progress),
            to_pixels(images, spec.size, spec.channels),
            t,
            SampleCovariance() if prior is None else prior,
            CalibratedTolerances() if tolerances is None else tolerances,
            seed,
            licence,
        )
        return self

    def __call__(
        self,
        num_images: int = 8,
        eta: float = 0.2,
        generator: Any = None,
        output_type: str = "pil",
        batch_size: int = 64,
        tolerances: Tolerances | None = None,
        max_proposals: int = 10_000,
        allow_fewer: bool = False,
        return_dict: bool = True,
    ) -> UnseenDomainOutput | tuple[Any, ...]:
        """Draws images of the fitted domain.

        Args:
            num_images: how many; with one seed, fewer images are the first of more.
            eta: bandwidth of the denoising: 0 deterministic, 1 as noisy as DDPM.
            generator: a seed; or a torch.Generator from which a seed is drawn, so that a second call with the same one
                gives other images, as everywhere in diffusers; None draws it from torch's own.
            output_type: ``pil``, ``pt`` or ``np``.
            batch_size: images per network call (in some pipelines of diffusers: the number of images).
            tolerances: instead of those of the fit.
            max_proposals: candidates drawn at most.
            allow_fewer: return the images accepted by then, instead of an error.
            return_dict: False returns the tuple of the output's fields.

        Raises:
            InputError: nothing fitted, values that cannot work, or too few candidates accepted.
        """
        domain = self._fitted()
        _check_count("num_images", num_images)
        if not 0 <= eta <= 1:
            raise InputError(f"eta={eta}: give a number between 0 and 1")
        if output_type not in OUTPUT_TYPES:
            raise InputError(f"output_type={output_type}: choose one of {', '.join(OUTPUT_TYPES)}")
        _check_count("batch_size", batch_size)
        images, chosen = draw(
            Evaluation(self.model, domain.solver, batch_size, self._shows_progress),
            domain,
            domain.tolerances if tolerances is None else tolerances,
            num_images,
            eta,
            _seed(generator),
            Rejection(max_proposals=max_proposals, allow_fewer=allow_fewer),
        )
        share = len(chosen.indices) / chosen.proposals
        shaped = from_pixels(images, output_type)
        output = UnseenDomainOutput(shaped, chosen.latents, share, chosen.proposals, chosen.passes)
        return output if return_dict else output.to_tuple()

    def save_pretrained(self, save_directory: str | Path, include_references: bool = True) -> None:
        """Saves the fitted domain: unseen_domain.json, prior.safetensors and a card; no weights of the base model.

        A base model from a local folder is named by that folder's absolute path.

        Args:
            save_directory: a new folder, or one with an earlier domain, which is overwritten.
            include_references: store the references' latents. The criteria need them; but the base model turns them
                back into the images.

        Raises:
            InputError: nothing fitted, a model without a reference, a prior that consists of the references, or a
                folder that holds something else.
        """
        self._fitted()
        base = self._base()
        path = str(Path(base.path).expanduser().absolute()) if is_local(base.path) else base.path
        write_domain(Path(save_directory), self._fitted(), replace(base, path=path), include_references)

    def push_to_hub(
        self,
        repo_id: str,
        include_references: bool | None = None,
        private: bool | None = None,
        token: str | None = None,
        commit_message: str = "Upload an unseen domain",
        create_pr: bool = False,
    ) -> str:
        """Saves the domain into a repository of the Hugging Face hub, and returns the commit's address.

        Args:
            repo_id: owner/name; created if it does not exist.
            include_references: see ``save_pretrained``; there is no default, because whoever can read the repository
                can rebuild the images from them.
            private, token, commit_message, create_pr: as in diffusers.

        Raises:
            InputError: see ``save_pretrained``; a base model that is a local folder; or the hub refuses.
        """
        self._fitted()
        if include_references is None:
            raise InputError(
                "include_references: pass True or False; with True, whoever reads the repository can rebuild the "
                "reference images"
            )
        path = self._base().path
        if is_local(path):
            raise InputError(
                f"push_to_hub: the base model {path} is a local folder, which nobody else has; save_pretrained, then "
                "load with base= and the model's hub id, and push that"
            )
        with tempfile.TemporaryDirectory() as parent:
            folder = Path(parent) / repo_id.rsplit("/", 1)[-1]
            self.save_pretrained(folder, include_references)
            return upload(folder, repo_id, private, token, commit_message, create_pr)

    def to(self, *args: Any, **kwargs: Any) -> "UnseenDomainPipeline":
        """Moves the pipeline to a device; the frozen model is read again there, and other pipelines keep theirs.

        Raises:
            InputError: another dtype than float32 (``from_pretrained`` takes dtype='bfloat16'), or a model without a
                hub id or folder to be read from.
        """
        for value in (*args, kwargs.get("device"), kwargs.get("dtype"), kwargs.get("torch_dtype")):
            if isinstance(value, torch.dtype):
                if value != torch.float32:
                    raise InputError(f"dtype={value}: weights stay float32; pass dtype='bfloat16' to from_pretrained")
            elif value is not None and (device := torch.device(value)) != self.device:
                base = self._base()
                self.model = _base_model(base.path, base, device)
        return self

    @property
    def device(self) -> torch.device:
        """The device on which the network computes."""
        return self.model.device

    @property
    def dtype(self) -> torch.dtype:
        """Type of the weights: always float32."""
        return torch.float32

    @property
    def _shows_progress(self) -> bool:
        """Whether bars are shown: not after ``set_progress_bar_config(disable=True)``."""
        return not getattr(self, "_progress_bar_config", {}).get("disable", False)

    def _fitted(self) -> UnseenDomain:
        if self.domain is None:
            raise InputError("nothing fitted yet; call fit(images), or load a saved domain with from_pretrained")
        return self.domain

    def _base(self) -> Base:
        """The origin of the model."""
        if self.config.base is None or not isinstance(self.model, DiffusersModel):
            raise InputError("base: this pipeline's model has no hub id or folder; make it with from_pretrained")
        return Base(self.config.base, self.config.revision, self.model.fingerprint, asdict(self.model.options))


def _base_model(origin: str, base: Base, device: str | torch.device) -> DiffusersModel:
    """Loads the model that a domain was fitted with.

    Raises:
        InputError: it does not load, or its weights have changed.
    """
    try:
        model = DiffusersModel(base.path, base.revision, device, **base.options)
    except InputError as error:
        raise InputError(
            f"{origin}: its base model does not load: {error}; or give base=, its present folder"
        ) from error
    if model.fingerprint != base.fingerprint:
        raise InputError(
            f"{origin}: {base.path} is not the model that it was fitted with (fingerprint {model.fingerprint[:12]} "
            f"instead of {base.fingerprint[:12]}); give base=, the model it was fitted with"
        )
    return model


def _settings(solver: str | SolverSettings, grid: str, steps: int) -> SolverSettings:
    if isinstance(solver, str):
        return SolverSettings(name=solver, grid=cast(GridKind, grid), steps=steps)
    if (grid, steps) != (GRID, STEPS):
        raise InputError(f"grid={grid}, steps={steps}: the solver's settings already give these; leave them out")
    return solver


def _check_count(name: str, value: object) -> None:
    checked_value(name, value, Count)


def _seed(generator: Any) -> int:
    """The call's seed: given, or drawn from a generator, whose state advances."""
    if isinstance(generator, bool) or not isinstance(generator, int | torch.Generator | None):
        raise InputError(f"generator: a {type(generator).__name__}; give a seed, or one torch.Generator for all images")
    if isinstance(generator, int):
        return generator
    device = generator.device if generator is not None else "cpu"
    return int(torch.randint(2**63 - 1, (), generator=generator, device=device))
