"""Conversion of ADM and DDPM checkpoints: same arithmetic, nothing assumed in silence, and refusals of one line."""

import math
import os
import pickle
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from unseen_diffusion.models import DiffusersModel
from unseen_diffusion.models.analytic import linear_schedule
from unseen_diffusion.models.conversion import Conversion, Options, Plan, convert
from unseen_diffusion.models.conversion.architecture import Architecture, Naming, check_complete, expected_shapes
from unseen_diffusion.models.conversion.command import convert_command
from unseen_diffusion.models.conversion.convert import as_network, build, original_network
from unseen_diffusion.models.conversion.families import AdmNaming, DdpmNaming
from unseen_diffusion.models.conversion.reference import AdmReference, DdpmReference, adm_embedding, ddpm_embedding
from unseen_diffusion.models.conversion.verification import compare_networks, difference
from unseen_diffusion.utils.errors import InputError
from unseen_diffusion.utils.files import read_json
from unseen_diffusion.utils.seeds import normal_rows

Shapes = dict[str, tuple[int, ...]]
State = dict[str, Tensor]
HEAD = 16
# The published AFHQ-Dog (P2 weighting) and CelebA-HQ, church and bedroom networks.
P2 = Architecture(3, 6, (128, 128, 256, 256, 512, 512), 1, (False,) * 4 + (True, False), True, True, 1e-5)
HO = Architecture(3, 3, (128, 128, 256, 256, 512, 512), 2, (False,) * 4 + (True, False), False, False, 1e-6)


def pair(shapes: Shapes, key: str, *shape: int) -> None:
    shapes[f"{key}.weight"], shapes[f"{key}.bias"] = shape, shape[:1]


def adm_shapes(arch: Architecture) -> Shapes:
    """The keys that guided-diffusion's constructor makes, by counting blocks as it does: not by our naming."""
    shapes: Shapes = {}
    base = arch.widths[0]

    def block(key: str, inputs: int, outputs: int) -> None:
        pair(shapes, f"{key}.in_layers.0", inputs)
        pair(shapes, f"{key}.in_layers.2", outputs, inputs, 3, 3)
        pair(shapes, f"{key}.emb_layers.1", outputs * (1 + arch.scale_shift), 4 * base)
        pair(shapes, f"{key}.out_layers.0", outputs)
        pair(shapes, f"{key}.out_layers.3", outputs, outputs, 3, 3)
        if inputs != outputs:
            pair(shapes, f"{key}.skip_connection", outputs, inputs, 1, 1)

    def attention(key: str, width: int) -> None:
        pair(shapes, f"{key}.norm", width)
        pair(shapes, f"{key}.qkv", 3 * width, width, 1)
        pair(shapes, f"{key}.proj_out", width, width, 1)

    pair(shapes, "time_embed.0", 4 * base, base)
    pair(shapes, "time_embed.2", 4 * base, 4 * base)
    pair(shapes, "input_blocks.0.0", base, arch.in_channels, 3, 3)
    number, width, skips = 1, base, [base]
    for level, wide in enumerate(arch.widths):
        for _ in range(arch.blocks):
            block(f"input_blocks.{number}.0", width, wide)
            width = wide
            if arch.attention[level]:
                attention(f"input_blocks.{number}.1", width)
            skips.append(width)
            number += 1
        if level < len(arch.widths) - 1:
            if arch.resnet_resampling:
                block(f"input_blocks.{number}.0", width, width)
            else:
                pair(shapes, f"input_blocks.{number}.0.op", width, width, 3, 3)
            skips.append(width)
            number += 1
    block("middle_block.0", width, width)
    attention("middle_block.1", width)
    block("middle_block.2", width, width)
    number = 0
    for level in reversed(range(len(arch.widths))):
        for layer in range(arch.blocks + 1):
            block(f"output_blocks.{number}.0", width + skips.pop(), arch.widths[level])
            width, place = arch.widths[level], 1
            if arch.attention[level]:
                attention(f"output_blocks.{number}.1", width)
                place = 2
            if level and layer == arch.blocks:
                if arch.resnet_resampling:
                    block(f"output_blocks.{number}.{place}", width, width)
                else:
                    pair(shapes, f"output_blocks.{number}.{place}.conv", width, width, 3, 3)
            number += 1
    pair(shapes, "out.0", width)
    pair(shapes, "out.2", arch.out_channels, width, 3, 3)
    return shapes


def ddpm_shapes(arch: Architecture) -> Shapes:
    """The keys that the PyTorch port of Ho et al. makes, in its constructor's order."""
    shapes: Shapes = {}
    base, levels = arch.widths[0], len(arch.widths)

    def block(key: str, inputs: int, outputs: int) -> None:
        pair(shapes, f"{key}.norm1", inputs)
        pair(shapes, f"{key}.conv1", outputs, inputs, 3, 3)
        pair(shapes, f"{key}.temb_proj", outputs, 4 * base)
        pair(shapes, f"{key}.norm2", outputs)
        pair(shapes, f"{key}.conv2", outputs, outputs, 3, 3)
        if inputs != outputs:
            pair(shapes, f"{key}.nin_shortcut", outputs, inputs, 1, 1)

    def attention(key: str, width: int) -> None:
        pair(shapes, f"{key}.norm", width)
        for part in ("q", "k", "v", "proj_out"):
            pair(shapes, f"{key}.{part}", width, width, 1, 1)

    pair(shapes, "temb.dense.0", 4 * base, base)
    pair(shapes, "temb.dense.1", 4 * base, 4 * base)
    pair(shapes, "conv_in", base, arch.in_channels, 3, 3)
    width, skips = base, [base]
    for level, wide in enumerate(arch.widths):
        for layer in range(arch.blocks):
            block(f"down.{level}.block.{layer}", width, wide)
            width = wide
            skips.append(width)
            if arch.attention[level]:
                attention(f"down.{level}.attn.{layer}", width)
        if level < levels - 1:
            pair(shapes, f"down.{level}.downsample.conv", width, width, 3, 3)
            skips.append(width)
    block("mid.block_1", width, width)
    attention("mid.attn_1", width)
    block("mid.block_2", width, width)
    for level in reversed(range(levels)):
        for layer in range(arch.blocks + 1):
            block(f"up.{level}.block.{layer}", width + skips.pop(), arch.widths[level])
            width = arch.widths[level]
            if arch.attention[level]:
                attention(f"up.{level}.attn.{layer}", width)
        if level:
            pair(shapes, f"up.{level}.upsample.conv", width, width, 3, 3)
    pair(shapes, "norm_out", width)
    pair(shapes, "conv_out", arch.out_channels, width, 3, 3)
    return shapes


def tiny_adm(**changes: Any) -> Architecture:
    arguments: dict[str, Any] = {
        "in_channels": 3,
        "out_channels": 6,
        "widths": (32, 64),
        "blocks": 1,
        "attention": (False, True),
        "scale_shift": True,
        "resnet_resampling": True,
        "norm_eps": 1e-5,
    }
    return Architecture(**(arguments | changes))


def tiny_ddpm(**changes: Any) -> Architecture:
    return tiny_adm(
        **({"out_channels": 3, "scale_shift": False, "resnet_resampling": False, "norm_eps": 1e-6} | changes)
    )


ADM_VARIANTS = {
    "p2-like": tiny_adm(),
    "iddpm-like": tiny_adm(resnet_resampling=False, blocks=2, attention=(True, True)),
    "deep": tiny_adm(widths=(32, 32, 64), attention=(False, True, False), out_channels=3, scale_shift=False),
    "one-level": tiny_adm(widths=(32,), attention=(True,), resnet_resampling=False),
}
DDPM_VARIANTS = {
    "ho-like": tiny_ddpm(blocks=2),
    "deep": tiny_ddpm(widths=(32, 32, 64), attention=(False, True, False)),
}
VARIANTS = [pytest.param(AdmNaming(), arch, id=f"adm-{name}") for name, arch in ADM_VARIANTS.items()]
VARIANTS += [pytest.param(DdpmNaming(), arch, id=f"ddpm-{name}") for name, arch in DDPM_VARIANTS.items()]


def shapes_of(names: Naming, arch: Architecture) -> Shapes:
    return adm_shapes(arch) if names.name == "ADM" else ddpm_shapes(arch)


def random_state(shapes: Mapping[str, tuple[int, ...]], seed: int = 0) -> State:
    """Weights that keep activations of order one; norms and biases away from 1 and 0."""
    rng = torch.Generator().manual_seed(seed)
    state = {}
    for key, shape in shapes.items():
        value = torch.randn(shape, generator=rng)
        if len(shape) > 1:
            state[key] = value / math.sqrt(value[0].numel())
        else:
            state[key] = 0.1 * value + (1 if key.endswith("weight") else 0)
    return state


def reference_of(names: Naming, state: State, **arguments: Any) -> AdmReference | DdpmReference:
    return AdmReference(state, HEAD, **arguments) if names.name == "ADM" else DdpmReference(state)


@pytest.fixture(scope="module")
def adm_state() -> State:
    return random_state(adm_shapes(tiny_adm()))


@pytest.fixture
def save(tmp_path: Path) -> Callable[..., Path]:
    """Writes anything as a checkpoint."""

    def write(content: Any, name: str = "checkpoint.pt") -> Path:
        torch.save(content, tmp_path / name)
        return tmp_path / name

    return write


OPTIONS = {field.name for field in fields(Options)}


def run(source: Path, folder: str = "converted", **arguments: Any) -> Conversion:
    """Converts to a folder beside the source, at 8 pixels unless told otherwise."""
    told = {"size": 8} | {key: value for key, value in arguments.items() if key in OPTIONS}
    rest = {key: value for key, value in arguments.items() if key not in OPTIONS}
    return convert(source, source.parent / folder, Options(**told), **rest)


def tiny_plan(names: Naming, arch: Architecture, new_attention_order: bool = False) -> Plan:
    return Plan(arch, names, 8, HEAD if names.name == "ADM" else None, new_attention_order, "linear")


@pytest.mark.parametrize(("names", "arch"), [*VARIANTS, pytest.param(AdmNaming(), P2), pytest.param(DdpmNaming(), HO)])
def test_the_architecture_is_read_from_keys_and_shapes(names: Naming, arch: Architecture) -> None:
    """Our naming lists exactly the original constructor's keys, and reads the architecture back from them."""
    shapes = shapes_of(names, arch)
    assert expected_shapes(arch, names) == shapes
    state = {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}
    assert names.infer(state) == arch
    check_complete(state, arch, names)


def test_published_networks_have_their_published_sizes() -> None:
    """93.56 M parameters for AFHQ-Dog P2, 113.67 M for DDPM (Ho et al., appendix B: 114 M)."""
    assert sum(math.prod(shape) for shape in adm_shapes(P2).values()) == pytest.approx(93.56e6, abs=5e3)
    assert sum(math.prod(shape) for shape in ddpm_shapes(HO).values()) == pytest.approx(113.67e6, abs=5e3)


@pytest.mark.parametrize(("names", "arch"), VARIANTS)
def test_converted_networks_compute_what_the_original_did(
    names: Naming, arch: Architecture, tmp_path: Path, save: Callable[..., Path]
) -> None:
    """float32, through the written folder: 1e-5 of the largest output at t = 0, 500, 999, and a fractional t."""
    state = random_state(shapes_of(names, arch))
    done = run(save(state), head_channels=HEAD if names.name == "ADM" else None)
    assert done.plan.architecture == arch
    assert [found.where for found in done.comparisons] == ["t = 0", "t = 500", "t = 999"]
    assert max(found.relative for found in done.comparisons) <= 1e-5
    model = DiffusersModel(str(tmp_path / "converted"))
    x, reference = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1)), reference_of(names, state)
    original = reference(x, reference.embed(torch.full((2,), 123.5)))
    eps = model.predict(x, model.schedule.node(123.5)).eps
    assert difference(eps, original[:, :3], "t = 123.5").relative <= 1e-5


@pytest.mark.parametrize(("names", "arch"), VARIANTS)
def test_in_float64_nothing_but_rounding_is_left(names: Naming, arch: Architecture) -> None:
    """1e-12 for equal time embeddings, which diffusers always computes in float32."""
    state = random_state(shapes_of(names, arch))
    unet = build(state, tiny_plan(names, arch)).double()
    reference = reference_of(names, {key: value.double() for key, value in state.items()})
    x = torch.randn(1, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    t = torch.full((1,), 999.0)
    original = reference(x, unet.time_proj(t))
    assert difference(as_network(unet)(x, t), original, "t = 999").relative <= 1e-12


@pytest.mark.parametrize(("embedding", "shift"), [(adm_embedding, 0), (ddpm_embedding, 1)])
def test_timesteps_are_embedded_by_the_papers_formula(embedding: Callable[..., Tensor], shift: int) -> None:
    """cos and sin of t 10000^(-i / (half - shift)) in float64; float32 angles up to 999 are good to 1e-4."""
    t = torch.tensor([0.0, 0.5, 999.0])
    angles = t.double()[:, None] * 10000 ** (-torch.arange(16, dtype=torch.float64) / (16 - shift))
    parts = [angles.cos(), angles.sin()] if shift == 0 else [angles.sin(), angles.cos()]
    torch.testing.assert_close(embedding(t, 32).double(), torch.cat(parts, 1), rtol=0, atol=1e-4)


def test_the_order_of_qkv_matters(adm_state: State) -> None:
    """The check can fail: read as the new order, a legacy checkpoint gives something else; each order is exact."""
    plans = [tiny_plan(AdmNaming(), tiny_adm(), order) for order in (False, True)]
    networks = [as_network(build(adm_state, plan)) for plan in plans]
    for order in (False, True):
        original = original_network(adm_state, plans[order])
        for read in (False, True):
            [found] = compare_networks(networks[read], original, (3, 8, 8), [500.0])
            assert found.relative <= 1e-5 if read == order else found.relative > 1e-2


def saved_activations(path: Path, state: State, **arguments: Any) -> Path:
    """What a user saves with the original's code."""
    reference = AdmReference(state, HEAD, **arguments)
    x, t = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(3)), torch.tensor([10.0, 700.0])
    save_file({"x": x, "t": t, "output": reference(x, reference.embed(t))}, path)
    return path


@pytest.mark.parametrize("wrong", [{"new_attention_order": True}, {"head_channels": 32}, {"heads": 1}])
def test_saved_activations_tell_what_no_tensor_does(
    adm_state: State, tmp_path: Path, save: Callable[..., Path], wrong: dict[str, Any]
) -> None:
    """Wrong heads or order agree with themselves, not with the original; then nothing is written."""
    activations, source = saved_activations(tmp_path / "activations.safetensors", adm_state), save(adm_state)
    heads = {} if wrong.keys() & {"heads", "head_channels"} else {"head_channels": HEAD}
    with pytest.raises(InputError, match=r"failed at row 0, t = 10: .* nothing was written"):
        run(source, activations=activations, verify=False, **heads, **wrong)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["activations.safetensors", "checkpoint.pt"]


def test_right_heads_and_order_agree_with_saved_activations(
    adm_state: State, tmp_path: Path, save: Callable[..., Path]
) -> None:
    """Three rows of our own and the two saved ones."""
    activations = saved_activations(tmp_path / "a.safetensors", adm_state, new_attention_order=True)
    done = run(save(adm_state), activations=activations, head_channels=HEAD, new_attention_order=True)
    assert len(done.comparisons) == 5


def test_activations_that_do_not_fit_are_refused(adm_state: State, tmp_path: Path, save: Callable[..., Path]) -> None:
    """Missing tensors, shapes of another network, another format."""
    source, path = save(adm_state), tmp_path / "a.safetensors"
    x, t = normal_rows((3, 8, 8), 0, "x", [0]), torch.zeros(1)
    for content, message in [
        ({"x": x, "t": t}, "give x, t and output"),
        ({"x": x[:, :1].clone(), "t": t, "output": x}, r"expected \(B, 3, H, W\)"),
        ({"x": x, "t": t, "output": torch.ones(1, 3, 8, 8)}, "save the whole output of the network"),
    ]:
        save_file(content, path)
        with pytest.raises(InputError, match=message):
            run(source, activations=path, head_channels=HEAD)
    path.write_bytes(b"no")
    with pytest.raises(InputError, match="not a readable safetensors"):
        run(source, activations=path, head_channels=HEAD)


def test_a_failed_comparison_writes_nothing(adm_state: State, tmp_path: Path, save: Callable[..., Path]) -> None:
    """At a tolerance of 0, rounding fails; zero or infinite outputs cannot be compared."""
    source = save(adm_state)
    with pytest.raises(InputError, match=r"verification failed at t = 0: .* \(0 allowed\)"):
        run(source, head_channels=HEAD, tolerance=0.0)
    zero = adm_state | {key: torch.zeros_like(adm_state[key]) for key in ("out.2.weight", "out.2.bias")}
    with pytest.raises(InputError, match=r"largest output is 0.0; give a trained network"):
        run(save(zero), head_channels=HEAD)
    broken = adm_state | {"out.0.weight": torch.full_like(adm_state["out.0.weight"], float("nan"))}
    with pytest.raises(InputError, match="is not finite; download its weights again"):
        run(save(broken), head_channels=HEAD)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.pt"]


def test_incomplete_and_foreign_tensors_are_named(adm_state: State, save: Callable[..., Path]) -> None:
    """Missing, unexpected and misshapen tensors; one line, the first of them by name."""
    cases: Sequence[tuple[State, str]] = (
        (
            without(adm_state, "input_blocks.1.0.in_layers.2.bias"),
            r"1 missing, first input_blocks.1.0.in_layers.2.bias",
        ),
        (without(adm_state, "out.2.weight"), r"no tensor out.2.weight"),
        (without(adm_state, "output_blocks.3."), r"do not form levels of equal depth"),
        (adm_state | {"extra.weight": torch.zeros(1)}, r"1 unexpected, first extra.weight"),
        (adm_state | {"out.0.bias": torch.zeros(5)}, r"out.0.bias has shape \(5,\); expected \(32,\)"),
        (adm_state | {"label_emb.weight": torch.zeros(2, 128)}, r"class-conditional \(label_emb.weight\)"),
        (adm_state | {"time_embed.0.weight": torch.zeros(128, 64)}, r"embedded in 64 channels, but the first level"),
        (random_state(adm_shapes(tiny_adm(in_channels=6))), r"6 input and 6 output channels; only unconditional"),
        (random_state(adm_shapes(tiny_adm(in_channels=4))), r"4 input and 6 output channels; only unconditional"),
        (random_state(ddpm_shapes(tiny_ddpm(widths=(16, 32)))), r"16 channels; both families have multiples of 32"),
    )
    for state, message in cases:
        with pytest.raises(InputError, match=message) as caught:
            run(save(state), head_channels=None if "temb.dense.0.weight" in state else HEAD)
        assert "\n" not in str(caught.value)


def without(state: State, prefix: str) -> State:
    return {key: value for key, value in state.items() if not key.startswith(prefix)}


@pytest.mark.parametrize(
    "content",
    [{"conv_in.weight": torch.zeros(1), "time_embedding.linear_1.weight": torch.zeros(1)}, {}, [1, 2], torch.zeros(3)],
)
def test_unknown_layouts_are_refused(content: Any, save: Callable[..., Path]) -> None:
    """The line names what was found and what is known."""
    with pytest.raises(InputError, match=r"unknown layout \(.*\); known: ADM"):
        run(save(content))


@pytest.mark.parametrize(
    ("wrap", "name"),
    [
        (lambda state, other: state, "."),
        (lambda state, other: prefixed(state, "module."), "module"),
        (lambda state, other: {"state_dict": prefixed(state, "module."), "step": 3}, "state_dict.module"),
        (lambda state, other: {"model": other, "ema": state, "optimizer": {"state": {0: torch.zeros(1)}}}, "ema"),
        (lambda state, other: prefixed(other, "model.") | prefixed(state, "model_ema."), "model_ema"),
        (lambda state, other: {"outer": {"ema_model": state, "model": other}}, "outer.ema_model"),
    ],
)
def test_the_network_is_found_in_any_nesting(
    adm_state: State, save: Callable[..., Path], wrap: Callable[[State, State], Any], name: str
) -> None:
    """Prefixes go; of several networks the exponential average is taken; the report says which."""
    source = save(wrap(adm_state, random_state(adm_shapes(tiny_adm()), seed=1)))
    done = run(source, head_channels=HEAD, verify=False)
    assert done.plan.statements[0].startswith(f"weights: {name} (")
    unet = DiffusersModel(str(source.parent / "converted")).unet
    assert torch.equal(unet.state_dict()["conv_out.bias"], adm_state["out.2.bias"])


def prefixed(state: State, prefix: str) -> State:
    return {prefix + key: value for key, value in state.items()}


def test_networks_without_a_rule_must_be_chosen(adm_state: State, save: Callable[..., Path]) -> None:
    """A list of two, as the DDIM code saves them: no guess, but ``--weights``."""
    other = random_state(adm_shapes(tiny_adm()), seed=1)
    source = save([other, {"param_groups": [{"lr": 1e-4}]}, 5, 100, adm_state])
    with pytest.raises(InputError, match="several networks; choose one with --weights: 0, 4"):
        run(source, head_channels=HEAD)
    with pytest.raises(InputError, match=r"--weights 3: no such network .* there are 0, 4"):
        run(source, head_channels=HEAD, weights="3")
    assert run(source, head_channels=HEAD, weights="4").plan.statements[0] == "weights: 4 (chosen by --weights)"


class Malicious:
    """Runs a command when it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.system, (f"touch {self.path}",))


def test_code_in_a_checkpoint_is_never_run(adm_state: State, tmp_path: Path, save: Callable[..., Path]) -> None:
    """torch's format and a bare pickle; and the same file would have run it."""
    trace = tmp_path / "ran"
    bare = tmp_path / "bare.ckpt"
    bare.write_bytes(pickle.dumps(adm_state | {"x": Malicious(trace)}))
    for source in (save(adm_state | {"x": Malicious(trace)}), bare):
        with pytest.raises(InputError, match="not a file of plain tensors, and code in it is never run") as caught:
            run(source, head_channels=HEAD)
        assert "\n" not in str(caught.value)
        assert not trace.exists()
    torch.load(tmp_path / "checkpoint.pt", weights_only=False)
    assert trace.exists()


def test_files_that_are_no_checkpoints(tmp_path: Path) -> None:
    """Absent or damaged files, of both formats."""
    with pytest.raises(InputError, match=r"gone.pt: no such file; give a checkpoint"):
        run(tmp_path / "gone.pt")
    for name in ("noise.pt", "noise.safetensors"):
        (tmp_path / name).write_bytes(b"not a checkpoint at all")
        with pytest.raises(InputError, match=f"{name}: not a file of plain tensors"):
            run(tmp_path / name)


def test_safetensors_and_half_precision_convert(adm_state: State, tmp_path: Path) -> None:
    """Half-precision tensors are widened, and the verification is about the widened ones."""
    half = {key: value.half() for key, value in adm_state.items()}
    save_file(half, tmp_path / "half.safetensors")
    run(tmp_path / "half.safetensors", head_channels=HEAD)
    weights = DiffusersModel(str(tmp_path / "converted")).unet.state_dict()
    assert torch.equal(weights["conv_in.weight"], half["input_blocks.0.0.weight"].float())


def test_fixed_head_counts_are_refused_where_unet2dmodel_has_none(save: Callable[..., Path]) -> None:
    """One width: heads become channels per head. Several: only a single head can be represented."""
    one = save(random_state(adm_shapes(tiny_adm())), "one.pt")
    assert any("4 heads at width 64, as given" in line for line in run(one, heads=4).plan.statements)
    assert read_json(one.parent / "converted/unet/config.json")["attention_head_dim"] == 16
    several = save(random_state(adm_shapes(tiny_adm(attention=(True, True)))), "several.pt")
    with pytest.raises(InputError, match=r"--heads 4: a fixed number of heads at widths 32 and 64 cannot be repre"):
        run(several, "other", heads=4)
    assert max(found.relative for found in run(several, "other", heads=1).comparisons) <= 1e-5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"heads": 5}, "--heads 5: does not divide the attention width 64"),
        ({"heads": 2, "head_channels": 32}, "--heads 2 and --head-channels 32: give one of them"),
        ({"head_channels": 48}, "--head-channels 48: does not divide attention width 64"),
        ({"size": 9}, "--size 9: give a multiple of 2, for 2 levels"),
        ({"size": None}, r"levels \(32, 64\): no published model has these, so the image size is unknown; give --size"),
        ({"schedule": "sigmoid"}, "--schedule sigmoid: choose linear or cosine"),
    ],
)
def test_options_that_cannot_work_are_refused(
    adm_state: State, save: Callable[..., Path], arguments: dict[str, Any], message: str
) -> None:
    """One line each, with the value and the remedy."""
    with pytest.raises(InputError, match=message):
        run(save(adm_state), **arguments)


def test_ddpm_has_one_head_and_the_default_of_adm_is_64_channels(adm_state: State, save: Callable[..., Path]) -> None:
    """What the tensors do not show is stated."""
    source = save(random_state(ddpm_shapes(tiny_ddpm())))
    with pytest.raises(InputError, match="DDPM checkpoint: its attention has one head"):
        run(source, heads=4)
    assert any("1 head at width 64, as in the whole family" in line for line in run(source).plan.statements)
    done = run(save(adm_state), "adm")
    assert any("64 channels per head at width 64, by ADM's rule" in line for line in done.plan.statements)


def test_an_existing_folder_is_kept(adm_state: State, tmp_path: Path, save: Callable[..., Path]) -> None:
    """Refused before anything is read."""
    (tmp_path / "converted").mkdir()
    with pytest.raises(InputError, match="converted: exists already; give a new folder"):
        run(tmp_path / "gone.pt")


def test_a_target_below_a_file_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    """One line, where a checkpoint of gigabytes would have been read first."""
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=rf"^target={tmp_path}/file/a/b: cannot write to {tmp_path}/file; choose"):
        run(tmp_path / "gone.pt", "file/a/b")


def test_published_widths_bring_their_image_size(tmp_path: Path, save: Callable[..., Path]) -> None:
    """(1, 2, 2, 2) is the 32-pixel network of Ho et al.; the schedule is theirs too."""
    arch = tiny_ddpm(widths=(32, 64, 64, 64), attention=(False, True, False, False))
    done = run(save(random_state(ddpm_shapes(arch))), size=None, verify=False)
    assert "image size: 32 (of published models with these widths)" in done.plan.statements
    spec = DiffusersModel(str(tmp_path / "converted")).spec
    assert (spec.size, spec.channels) == (32, 3)
    torch.testing.assert_close(
        spec.schedule.alphas_cumprod, linear_schedule().alphas_cumprod, rtol=1e-4, atol=0
    )  # diffusers multiplies in float32


def test_the_cosine_schedule_is_nichol_and_dhariwals(
    adm_state: State, tmp_path: Path, save: Callable[..., Path]
) -> None:
    """alphas_cumprod[t] = f(t + 1) / f(0), f(t) = cos^2((t / T + s) / (1 + s) pi / 2), s = .008; beta <= .999."""
    run(save(adm_state), head_channels=HEAD, schedule="cosine", verify=False)
    found = DiffusersModel(str(tmp_path / "converted")).schedule.alphas_cumprod[:-1]
    t = torch.arange(1000, dtype=torch.float64)
    f = torch.cos((t / 1000 + 0.008) / 1.008 * torch.pi / 2) ** 2
    torch.testing.assert_close(found, f[1:] / f[0], rtol=1e-3, atol=1e-6)


def test_the_command_reports_and_returns_0(
    adm_state: State, tmp_path: Path, save: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """What was chosen, assumed and measured, a line each; --no-verify says so."""
    source = save({"ema": adm_state})
    options = ["--head-channels", "16", "--size", "8"]
    assert convert_command([str(source), str(tmp_path / "a"), *options]) == 0
    said = capsys.readouterr().out
    assert "weights: ema (the only network)" in said
    assert (
        "architecture: ADM, levels 32, 64, 1 block each, attention at level 1 and in the middle, with learned" in said
    )
    assert said.count("verified at t = ") == 3
    assert said.splitlines()[-1] == f"wrote {tmp_path / 'a'}: {count(adm_state) / 1e6:.2f} M parameters"
    assert convert_command([str(source), str(tmp_path / "b"), *options, "--no-verify"]) == 0
    assert "not verified" in capsys.readouterr().out


def count(state: State) -> int:
    return sum(value.numel() for value in state.values())
