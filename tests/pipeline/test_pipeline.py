"""The diffusers pipeline: fit, call, save, load, share; and what it refuses."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import diffusers
import huggingface_hub
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from torch import Tensor

from support import TinyModelFolder
from support.families import make
from support.options import option
from unseen_diffusion.models import GaussianModel
from unseen_diffusion.models.analytic import natural_gaussian
from unseen_diffusion.pipeline import UnseenDomainOutput, UnseenDomainPipeline
from unseen_diffusion.pipeline.pixels import to_pixels
from unseen_diffusion.priors import (
    Diagonal,
    KernelDensity,
    LowRank,
    SampleCovariance,
    Slerp,
    Standard,
    Stationary,
    SubspaceKernelDensity,
)
from unseen_diffusion.rejection import (
    AbsoluteTolerances,
    CalibratedTolerances,
    NoTolerances,
    Projection,
    RandomControl,
    Rejection,
    select,
)
from unseen_diffusion.rejection.geometry import References
from unseen_diffusion.runs.stages import Stages
from unseen_diffusion.solvers.grids import make_grid
from unseen_diffusion.solvers.sampling import denoise, invert
from unseen_diffusion.solvers.settings import SolverSettings
from unseen_diffusion.store.artefacts import Store
from unseen_diffusion.utils.errors import InputError
from unseen_diffusion.utils.files import read_json, write_json
from unseen_diffusion.utils.images import dequantise, fit, quantise

FILES = ["README.md", "prior.safetensors", "unseen_domain.json"]
BANDS = CalibratedTolerances(k=3, repeats=2)
QUICK: dict[str, Any] = {"t": 400, "steps": 4, "tolerances": BANDS}


def pictures(count: int = 8, channels: int = 3, size: int = 8) -> Tensor:
    """Smooth random images, uint8."""
    fields = torch.randn(count, channels, 3, 3, generator=torch.Generator().manual_seed(5))
    return quantise(0.5 * torch.nn.functional.interpolate(fields, size=size, mode="bilinear", align_corners=True))


def load(folder: Path | str, **options: Any) -> UnseenDomainPipeline:
    pipe = UnseenDomainPipeline.from_pretrained(folder, **options)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture
def pipe(tiny_model_folder: TinyModelFolder) -> UnseenDomainPipeline:
    """Not fitted."""
    return load(tiny_model_folder())


@pytest.fixture(scope="module")
def fitted(tiny_model_folder: TinyModelFolder) -> UnseenDomainPipeline:
    """Read-only by agreement."""
    return load(tiny_model_folder()).fit(pictures(), **QUICK)


def draws(pipe: UnseenDomainPipeline, count: int = 3, **options: Any) -> UnseenDomainOutput:
    return pipe(**({"num_images": count, "generator": 7, "output_type": "pt"} | options))


def equal(first: UnseenDomainOutput, second: UnseenDomainOutput) -> bool:
    return torch.equal(first.latents, second.latents) and torch.equal(first.images, second.images)


def refuses(message: str) -> Any:
    """An InputError of one line."""
    return pytest.raises(InputError, match=rf"\A[^\n]*{message}[^\n]*\Z")


@pytest.mark.parametrize(
    "tolerances",
    [BANDS, RandomControl(match=BANDS), Projection(match=BANDS, iterations=4)],
    ids=lambda tolerances: tolerances.name,
)
def test_a_call_is_the_chain_of_the_library(pipe: UnseenDomainPipeline, tolerances: Any) -> None:
    """images -> latents -> prior -> selection -> images, written out."""
    model, references = pipe.model, pictures()
    grid = make_grid(model.schedule, "karras", 4, 400)
    latents = invert(model, dequantise(references), grid, [400.0], "dpmpp_2m")[400.0]
    chosen = select(SampleCovariance().fit(latents), latents, tolerances, 3, 0, 1000)
    images = quantise(denoise(model, chosen.latents, grid, 0.2, 0, chosen.indices, "dpmpp_2m"))
    output = draws(pipe.fit(references, **(QUICK | {"tolerances": tolerances})), generator=0, max_proposals=1000)
    assert torch.equal(output.latents, chosen.latents)
    assert torch.equal((output.images * 255).round().to(torch.uint8), images)
    assert (output.proposals, output.passes) == (chosen.proposals, chosen.passes)
    assert output.acceptance == 3 / chosen.proposals


def test_a_run_draws_the_same_bits(pipe: UnseenDomainPipeline, tmp_path: Path) -> None:
    """The same steps through the artefact store: the control's seed, and eta's noise by candidate, too."""
    tolerances, references = RandomControl(match=BANDS), pictures()
    output = draws(pipe.fit(references, **(QUICK | {"tolerances": tolerances})), generator=5, max_proposals=1000)
    stages, solver = Stages(Store(tmp_path)), SolverSettings(name="dpmpp_2m", grid="karras", steps=4)
    latents = stages.inversion(pipe.model, references, solver, 400.0)[1]
    prior = stages.prior(SampleCovariance(), {}, latents, None)
    domain = pipe.domain
    assert domain is not None
    chosen = stages.selection(prior, latents, domain.tolerances, {}, 3, 5, Rejection(max_proposals=1000))[1]
    images = stages.denoising(pipe.model, chosen, solver, 0.2, 5).tensors["images"]
    assert torch.equal(output.latents, chosen.latents)
    assert torch.equal((output.images * 255).round().to(torch.uint8), images)


def test_the_batch_size_and_the_number_of_images_change_no_image(fitted: UnseenDomainPipeline) -> None:
    """Per-image streams; only the network's rounding may differ by batch."""
    whole = draws(fitted, 5, eta=0.7)
    parts = draws(fitted, 5, eta=0.7, batch_size=2)
    assert torch.equal(whole.latents, parts.latents)
    assert float((whole.images - parts.images).abs().max()) <= 1.01 / 255
    fewer = draws(fitted, 2, eta=0.7)
    assert torch.equal(fewer.latents, whole.latents[:2])
    assert float((fewer.images - whole.images[:2]).abs().max()) <= 1.01 / 255


def test_generators_are_moved_on_as_in_diffusers(fitted: UnseenDomainPipeline) -> None:
    def fresh() -> torch.Generator:
        return torch.Generator().manual_seed(3)

    used = fresh()
    first = draws(fitted, generator=used)
    assert equal(first, draws(fitted, generator=fresh()))
    assert not torch.equal(first.latents, draws(fitted, generator=used).latents)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        assert equal(first, draws(fitted, generator=None))
        assert not torch.equal(first.latents, draws(fitted, generator=None).latents)


def test_output_types_show_the_same_pixels(fitted: UnseenDomainPipeline) -> None:
    as_pt, as_np = draws(fitted).images, draws(fitted, output_type="np").images
    as_pil = draws(fitted, output_type="pil").images
    assert as_np.dtype == np.float32
    assert np.array_equal(as_np, as_pt.permute(0, 2, 3, 1).numpy())
    assert [image.mode for image in as_pil] == ["RGB"] * 3
    assert torch.equal(to_pixels(as_pil, 8, 3), to_pixels(as_np, 8, 3))
    images, latents, *_ = draws(fitted, return_dict=False)
    assert torch.equal(images, as_pt)
    assert torch.equal(latents, draws(fitted).latents)


def test_grey_models_give_grey_images(tiny_model_folder: TinyModelFolder) -> None:
    pipe = load(tiny_model_folder(channels=1)).fit(pictures(), **QUICK)
    assert [(image.mode, image.size) for image in draws(pipe, output_type="pil").images] == [("L", (8, 8))] * 3


def test_all_forms_of_images_are_the_same_images(tmp_path: Path) -> None:
    """Tensor, array, floats, Pillow, paths and a folder; other sizes go through ``images.fit``."""
    images = pictures(5, size=12)
    pillow = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in images]
    paths = [tmp_path / "folder" / f"{i}.png" for i in range(5)]
    paths[0].parent.mkdir()
    for image, path in zip(pillow, paths, strict=True):
        image.save(path)
    arrays = images.permute(0, 2, 3, 1).numpy()
    expected = torch.stack([fit(array, 8, 3) for array in arrays])
    forms = (images, images / 255, arrays, arrays / 255.0, pillow, [str(path) for path in paths], paths[0].parent)
    for form in forms:
        assert torch.equal(to_pixels(form, 8, 3), expected)
    assert torch.equal(to_pixels(pillow[0], 8, 3), expected[:1])


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.linspace(-1, 1, 192).reshape(1, 3, 8, 8), r"floats from -1 to 1; give them in \[0, 1\]"),
        (torch.full((2, 3, 8, 8), torch.nan), r"floats from nan"),
        (torch.zeros(3, 8, 8), r"shape \(3, 8, 8\)"),
        (torch.zeros(2, 3, 8, 8, dtype=torch.int64), "int64; give uint8"),
        ([], "an empty list"),
        ([3], r"images\[0\]: a int"),
        ([Image.new("F", (8, 8))], "mode F has no PNG"),
        (7, "images: a int; give a tensor"),
        ("no/such/folder", "no such folder"),
    ],
)
def test_images_that_are_none_are_refused(pipe: UnseenDomainPipeline, images: Any, message: str) -> None:
    with refuses(message):
        pipe.fit(images, **QUICK)
    assert pipe.model.evaluations == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"t": 1000}, "t=1000 lies outside"),
        ({"steps": 1}, "solver.steps=1"),
        ({"solver": "euler"}, "solver.name=euler"),
        ({"solver": SolverSettings(name="ddim", grid="uniform_t", steps=4)}, "already give these"),
        ({"prior": LowRank(rank=20)}, "needs"),
        ({"prior": Slerp(towards="id")}, "model's own domain"),
        ({"tolerances": CalibratedTolerances(k=8)}, "tolerances.k=8: with 8 references give a number between 2 and 7"),
        ({"batch_size": 0}, "batch_size=0"),
    ],
)
def test_settings_are_refused_before_anything_runs(
    pipe: UnseenDomainPipeline, changes: dict[str, Any], message: str
) -> None:
    with refuses(message):
        pipe.fit(pictures(), **(QUICK | changes))
    assert pipe.model.evaluations == 0
    assert pipe.domain is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_images": 0}, "num_images=0"),
        ({"eta": 1.5}, "eta=1.5"),
        ({"max_proposals": 0}, "max_proposals=0: give a whole number of 1 or more"),
        ({"output_type": "latent"}, "output_type=latent"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"generator": [torch.Generator()]}, "one torch.Generator for all"),
        (
            {"tolerances": AbsoluteTolerances(tolerance={"pair_distance": 1e-9}, target={}, k=3), "max_proposals": 9},
            "0 of 3 latents",
        ),
    ],
)
def test_calls_that_cannot_work_are_refused(fitted: UnseenDomainPipeline, changes: Any, message: str) -> None:
    with refuses(message):
        draws(fitted, **changes)


def test_nothing_works_unfitted(pipe: UnseenDomainPipeline, tmp_path: Path) -> None:
    with refuses("nothing fitted yet"):
        pipe()
    with refuses("nothing fitted yet"):
        pipe.save_pretrained(tmp_path / "domain")
    with refuses("nothing fitted yet"):
        pipe.push_to_hub("me/domain")
    assert not list(tmp_path.iterdir())


def test_fewer_images_may_be_allowed(fitted: UnseenDomainPipeline) -> None:
    output = draws(fitted, 50, max_proposals=12, allow_fewer=True)
    assert 0 < len(output.images) < 50
    assert output.acceptance == len(output.images) / 12


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"prior": Diagonal(), "tolerances": RandomControl(match=BANDS)},
        {"prior": Stationary(), "tolerances": NoTolerances()},
        {"prior": Slerp(), "tolerances": Projection(match=BANDS, iterations=4)},
        {"prior": KernelDensity(), "tolerances": AbsoluteTolerances(tolerance={"pair_distance": 5.0}, target={}, k=3)},
        {"solver": SolverSettings(name="ddim", grid="uniform_t", steps=4)},
        {"solver": option("solver", "ddim_implicit", steps=8, iterations=2, tolerance=0.1)},
    ],
    ids=lambda changes: "-".join(getattr(value, "name", "") for value in changes.values()) or "default",
)
def test_a_saved_domain_draws_the_same_bits(
    pipe: UnseenDomainPipeline, tmp_path: Path, changes: dict[str, Any]
) -> None:
    settings = QUICK | changes
    if "solver" in changes:
        del settings["steps"]
    before = draws(pipe.fit(pictures(), **settings), eta=0.5, max_proposals=2000)
    pipe.save_pretrained(tmp_path / "domain")
    again = load(tmp_path / "domain")
    assert equal(before, draws(again, eta=0.5, max_proposals=2000))
    again.save_pretrained(tmp_path / "again")
    for name in ("prior.safetensors", "unseen_domain.json"):
        assert (tmp_path / "domain" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_other_seeds_meet_the_bands_of_the_fit(fitted: UnseenDomainPipeline, tmp_path: Path) -> None:
    """Measured with the fit's seed, and stored; measured with another they differ."""
    fitted.save_pretrained(tmp_path / "domain")
    domain = load(tmp_path / "domain").domain
    references = References.of(domain.references)
    assert domain.tolerances.bands(references, 1) == BANDS.bands(references, 0) != BANDS.bands(references, 1)


def test_a_saved_domain_is_three_small_files(fitted: UnseenDomainPipeline, tmp_path: Path) -> None:
    """No weights, nothing pickled, and the references once, though prior and criteria both need them."""
    folder = tmp_path / "galaxies"
    fitted.save_pretrained(folder)
    assert sorted(path.name for path in folder.iterdir()) == FILES
    with safe_open(folder / "prior.safetensors", "pt") as file:
        assert sorted(file.keys()) == ["prior.mean", "references"]
    stored = read_json(folder / "unseen_domain.json")
    assert stored["images"]["count"] == 8
    assert stored["base"]["fingerprint"] == fitted.model.fingerprint
    card = (folder / "README.md").read_text()
    assert "# galaxies" in card
    assert "It reveals the images" in card


def test_the_card_states_the_licence(pipe: UnseenDomainPipeline, tmp_path: Path) -> None:
    pipe.fit(pictures(), **QUICK, licence="CC BY 4.0, the observatory").save_pretrained(tmp_path / "domain")
    assert "| licence of the images | CC BY 4.0, the observatory |" in (tmp_path / "domain" / "README.md").read_text()
    assert load(tmp_path / "domain").domain.images == pipe.domain.images


def test_references_can_stay_at_home(pipe: UnseenDomainPipeline, tmp_path: Path) -> None:
    """Without them nothing is judged, and the call says so; the prior draws as before."""
    pipe.fit(pictures(), **QUICK, prior=Stationary())
    pipe.save_pretrained(tmp_path / "domain", include_references=False)
    with safe_open(tmp_path / "domain" / "prior.safetensors", "pt") as file:
        assert "references" not in file.keys()  # noqa: SIM118 - no mapping
    assert "It reveals" not in (tmp_path / "domain" / "README.md").read_text()
    again = load(tmp_path / "domain")
    with refuses("saved without its references.*NoTolerances"):
        draws(again)
    assert equal(draws(again, tolerances=NoTolerances()), draws(pipe, tolerances=NoTolerances()))
    with refuses("include_references=True"):
        again.save_pretrained(tmp_path / "more")
    again.save_pretrained(tmp_path / "more", include_references=False)


@pytest.mark.parametrize(
    "prior",
    [SampleCovariance(), Slerp(), Slerp(centre="mean"), KernelDensity(), SubspaceKernelDensity(rank=6, bandwidth=0.3)],
    ids=lambda prior: prior.name,
)
def test_a_prior_made_of_references_cannot_leave_them(pipe: UnseenDomainPipeline, tmp_path: Path, prior: Any) -> None:
    pipe.fit(pictures(), **QUICK, prior=prior)
    with refuses(f"include_references=False: prior={prior.name} holds"):
        pipe.save_pretrained(tmp_path / "domain", include_references=False)
    assert not list(tmp_path.iterdir())


def test_only_its_own_folders_are_overwritten(fitted: UnseenDomainPipeline, tmp_path: Path) -> None:
    fitted.save_pretrained(tmp_path / "domain")
    fitted.save_pretrained(tmp_path / "domain")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "README.md").write_text("mine")
    with refuses("contains something other"):
        fitted.save_pretrained(tmp_path / "other")
    assert (tmp_path / "other" / "README.md").read_text() == "mine"


def test_another_base_model_is_noticed(
    tiny_model_folder: TinyModelFolder, tmp_path: Path, fitted: UnseenDomainPipeline
) -> None:
    base, moved = tmp_path / "base", tmp_path / "moved"
    shutil.copytree(tiny_model_folder(), base)
    load(base).fit(pictures(), **QUICK).save_pretrained(tmp_path / "domain")
    base.rename(moved)
    with refuses("its base model does not load.*no such folder.*give base="):
        load(tmp_path / "domain")
    assert equal(draws(load(tmp_path / "domain", base=moved)), draws(fitted))
    shutil.copytree(tiny_model_folder(seed=1), base)
    with refuses("is not the model that it was fitted with"):
        load(tmp_path / "domain")


def edit(folder: Path, **changes: Any) -> None:
    write_json(folder / "unseen_domain.json", read_json(folder / "unseen_domain.json") | changes)


def test_damaged_files_are_refused(fitted: UnseenDomainPipeline, tmp_path: Path) -> None:
    fitted.save_pretrained(tmp_path / "good")

    def copy(name: str) -> Path:
        return Path(shutil.copytree(tmp_path / "good", tmp_path / name))

    folder = copy("format")
    edit(folder, format=2)
    with refuses("format 2, this version reads 1"):
        load(folder)
    folder = copy("tensors")
    (folder / "prior.safetensors").write_bytes((folder / "prior.safetensors").read_bytes()[:-1])
    with refuses("not the file that unseen_domain.json names"):
        load(folder)
    (folder / "prior.safetensors").unlink()
    with refuses("no prior.safetensors beside"):
        load(folder)
    options = read_json(tmp_path / "good" / "unseen_domain.json")["base"] | {"options": {"trust_remote_code": True}}
    wrong = ({"solver": {}}, {"prior": {"kind": "os.system", "derived": {}}}, {"base": [1]}, {"base": options})
    for number, broken in enumerate(wrong):
        folder = copy(f"json{number}")
        edit(folder, **broken)
        with refuses("damaged"):
            load(folder)
    (folder / "unseen_domain.json").write_text("{")
    with refuses("not a readable JSON file"):
        load(folder)


@pytest.mark.parametrize(
    ("path", "options", "message"),
    [
        ("/no/such/folder", {}, "no such folder"),
        ("nobody/nothing", {}, "not a local folder, not cached"),
        ("embedded:nothing", {}, "no such embedded model"),
        (
            "embedded:photos32",
            {"torch_dtype": torch.float16},
            "torch_dtype=torch.float16 is not an option here; choose",
        ),
        ("embedded:photos32", {"base": "x"}, "base=x: embedded:photos32 is no saved unseen domain"),
    ],
)
def test_what_is_neither_model_nor_domain_is_refused(path: str, options: dict[str, Any], message: str) -> None:
    with refuses(message):
        load(path, **options)


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with refuses("give a diffusers folder"):
        load(tmp_path)


def test_a_saved_domain_brings_its_own_options(fitted: UnseenDomainPipeline, tmp_path: Path) -> None:
    fitted.save_pretrained(tmp_path / "domain")
    with refuses("dtype=bfloat16 is not an option here; a saved domain brings its own"):
        load(tmp_path / "domain", dtype="bfloat16")


def test_it_is_a_diffusers_pipeline(fitted: UnseenDomainPipeline, tiny_model_folder: TinyModelFolder) -> None:
    assert isinstance(fitted, diffusers.DiffusionPipeline)
    assert isinstance(draws(fitted), diffusers.ImagePipelineOutput)
    assert fitted.components == {"model": fitted.model}
    assert fitted.config.base == str(tiny_model_folder())
    assert (fitted.device, fitted.dtype) == (torch.device("cpu"), torch.float32)
    shared = UnseenDomainPipeline.from_pipe(fitted)
    assert shared.model is fitted.model
    assert (shared.domain, shared.config.base) == (None, fitted.config.base)
    assert '"base"' in repr(fitted)


def test_to_reads_the_model_again_on_the_device(fitted: UnseenDomainPipeline, tmp_path: Path) -> None:
    fitted.save_pretrained(tmp_path / "domain")
    pipe = load(tmp_path / "domain")
    model = pipe.model
    assert pipe.to("cpu").to(dtype=torch.float32).model is model
    assert pipe.to(torch.device("cpu", 0)).model is not model
    assert pipe.device == torch.device("cpu", 0)
    assert equal(draws(pipe), draws(fitted))
    with refuses("weights stay float32"):
        pipe.to(torch.float16)


def test_a_model_without_a_reference_is_fitted_but_not_saved(tmp_path: Path) -> None:
    model: Any = natural_gaussian(8, 3, 0.5, 2.0)
    assert isinstance(model, GaussianModel)
    pipe = UnseenDomainPipeline(model)
    pipe.set_progress_bar_config(disable=True)
    assert draws(pipe.fit(pictures(), **QUICK)).images.shape == (3, 3, 8, 8)
    with refuses("base: this pipeline's model has no hub id or folder"):
        pipe.save_pretrained(tmp_path / "domain")


def test_progress_bars_can_be_switched_off(fitted: UnseenDomainPipeline, capfd: pytest.CaptureFixture[str]) -> None:
    draws(fitted)
    assert capfd.readouterr().err == ""
    fitted.set_progress_bar_config()
    draws(fitted)
    fitted.set_progress_bar_config(disable=True)
    assert "denoise" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("family", "options"), [("kl", {}), ("ncsnpp", {}), ("dit", {"condition": 3, "guidance": 2.0})]
)
def test_families_with_codecs_conditions_and_guidance(tmp_path: Path, family: str, options: dict[str, Any]) -> None:
    """Images pass through the autoencoder both ways, and the options come back with the domain."""
    pipe = load(make(family, tmp_path / family), **options).fit(pictures(6), **QUICK)
    spec = pipe.model.spec
    before = draws(pipe, tolerances=NoTolerances())
    assert before.images.shape == (3, spec.channels, spec.size, spec.size)
    assert before.latents.shape == (3, *spec.shape)
    pipe.save_pretrained(tmp_path / "domain")
    again = load(tmp_path / "domain")
    assert again.model.options == pipe.model.options
    assert equal(before, draws(again, tolerances=NoTolerances()))
    unguided = load(tmp_path / family, **(options | {"guidance": 1.0}))
    unguided.domain = pipe.domain
    assert equal(before, draws(unguided, tolerances=NoTolerances())) == ("guidance" not in options)


def test_n_0_i_is_as_wide_as_the_schedules_states(tmp_path: Path) -> None:
    """Of a variance-exploding model, whose latents are far wider than 1."""
    pipe = load(make("ncsnpp", tmp_path / "ve")).fit(pictures(6), **(QUICK | {"t": 900, "prior": Standard()}))
    assert pipe.domain is not None
    width = pipe.model.schedule.state_std(900)
    assert width > 2
    assert float(pipe.domain.prior.sample(range(64), 0).std()) == pytest.approx(width, rel=0.1)


COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny_model_folder: TinyModelFolder) -> Path:
    """A hub of folders, tmp_path/hub/owner/name, in place of the real one; owner/base is the tiny model."""
    root = tmp_path / "hub"
    shutil.copytree(tiny_model_folder(), root / "owner" / "base" / COMMIT)

    def snapshot(path: str, revision: str | None, allow_patterns: Sequence[str]) -> str:
        folder = root / path / (revision or COMMIT)
        if not folder.is_dir():
            raise OSError(f"no {path} at {revision}")
        return str(folder)

    class Hub:
        def __init__(self, token: str | None):
            assert token == "secret"

        def create_repo(self, repo_id: str, private: bool | None, exist_ok: bool) -> Any:
            assert private
            assert exist_ok
            return huggingface_hub.RepoUrl(f"https://huggingface.co/{repo_id}")

        def upload_folder(
            self, repo_id: str, folder_path: Path, allow_patterns: list[str], commit_message: str, create_pr: bool
        ) -> str:
            assert sorted(path.name for path in folder_path.rglob("*")) == FILES == sorted(allow_patterns)
            shutil.copytree(folder_path, root / repo_id / COMMIT)
            return f"{commit_message}, {create_pr}"

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    return root


def test_a_domain_travels_over_the_hub(hub: Path, fitted: UnseenDomainPipeline) -> None:
    """Exactly three files go; the base model comes from its own repository, at the commit it was fitted with."""
    pipe = load("owner/base").fit(pictures(), **QUICK)
    answer = pipe.push_to_hub("me/galaxies", include_references=True, private=True, token="secret")
    assert answer == "Upload an unseen domain, False"
    folder = hub / "me" / "galaxies" / COMMIT
    assert sorted(path.name for path in folder.iterdir()) == FILES
    stored = json.loads((folder / "unseen_domain.json").read_text())
    assert (stored["base"]["path"], stored["base"]["revision"]) == ("owner/base", COMMIT)
    card = (folder / "README.md").read_text()
    assert card.startswith("---\nbase_model: owner/base\n")
    assert "# galaxies" in card
    assert "secret" not in "".join(path.read_text(errors="ignore") for path in folder.iterdir())
    assert equal(draws(load("me/galaxies")), draws(fitted))
    assert equal(draws(load("me/galaxies", revision=COMMIT)), draws(fitted))


def test_publishing_references_is_said_explicitly(hub: Path) -> None:
    with refuses("include_references: pass True or False"):
        load("owner/base").fit(pictures(), **QUICK).push_to_hub("me/galaxies", token="secret")
    assert not (hub / "me").exists()


def test_a_local_base_model_cannot_be_published(fitted: UnseenDomainPipeline) -> None:
    with refuses("is a local folder, which nobody else has"):
        fitted.push_to_hub("me/galaxies", include_references=True)


def test_pushing_offline_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hub: Path) -> None:
    """HF_HUB_OFFLINE=1 for all tests: the real client refuses before it connects."""
    pipe = load("owner/base").fit(pictures(), **QUICK)
    monkeypatch.setattr(huggingface_hub, "HfApi", huggingface_hub.hf_api.HfApi)
    with refuses("push_to_hub: me/galaxies cannot be written .*go online"):
        pipe.push_to_hub("me/galaxies", include_references=True, token="none")
