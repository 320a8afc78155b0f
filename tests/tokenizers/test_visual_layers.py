"""The layers of the visual tokenizer against the published table. Nothing is computed here."""

import functools

import jax
import jax.numpy as jnp
import pytest

from poet.layers.conv import CausalConv3d
from poet.tokenizers import magvit2
from poet.tokenizers.magvit2 import Magvit2, MagvitConfig
from poet.train.state import count_parameters

PAPER = MagvitConfig()
CLIP = (1, 17, 128, 128, 3)

# name, kind, channels in -> out, output frames x rows x columns; strides where not 1.
ENCODER = """
conv_in          conv 3 no-bias       3->128   17x128x128
stage_0 x4       res                  128->128 17x128x128
down_0           conv 4 stride 1,2,2  128->128 17x64x64
stage_1 x4       res                  128->256 17x64x64
down_1           conv 4 stride 2,2,2  256->256 9x32x32
stage_2 x4       res                  256->256 9x32x32
down_2           conv 4 stride 2,2,2  256->256 5x16x16
stage_3 x4       res                  256->512 5x16x16
bottleneck x4    res                  512->512 5x16x16
norm_out         group norm           512->512 5x16x16
conv_out         conv 1               512->18  5x16x16
"""
DECODER = """
conv_in          conv 3               18->512   5x16x16
bottleneck x4    res                  512->512  5x16x16
condition_0      ada norm             512->512  5x16x16
stage_0 x4       res                  512->512  5x16x16
up_1             conv 3               512->4096 5x16x16
up_1             to space 2,2,2       512->512  9x32x32
condition_1      ada norm             512->512  9x32x32
stage_1 x4       res                  512->256  9x32x32
up_2             conv 3               256->2048 9x32x32
up_2             to space 2,2,2       256->256  17x64x64
condition_2      ada norm             256->256  17x64x64
stage_2 x4       res                  256->256  17x64x64
up_3             conv 3               256->1024 17x64x64
up_3             to space 1,2,2       256->256  17x128x128
condition_3      ada norm             256->256  17x128x128
stage_3 x4       res                  256->128  17x128x128
norm_out         group norm           128->128  17x128x128
conv_out         conv 3               128->3    17x128x128
"""


@functools.cache
def layers(config, half, shape):
    """Rows of the table, read off the modules as they are called."""
    rows = []

    def note(next_function, args, kwargs, context):
        out = next_function(*args, **kwargs)
        module, path = context.module, context.module.path
        if context.method_name != "__call__" or len(path) < 2 or path[0] != half:
            return out
        sizes = f"{args[0].shape[-1]}->{out.shape[-1]}", "x".join(map(str, out.shape[1:4]))
        match module:
            case CausalConv3d() if len(path) == 2 or path[2] == "conv":
                kind = f"conv {module.kernel_size[0]}"
                assert len(set(module.kernel_size)) == 1
                kind += "" if module.use_bias else " no-bias"
                if module.strides != (1, 1, 1):
                    kind += f" stride {','.join(map(str, module.strides))}"
            case magvit2.ResidualStage():
                kind, path = "res", (*path[:1], f"{path[1]} x{module.config.blocks_per_stage}")
            case magvit2.FrameGroupNorm() if len(path) == 2:
                kind = "group norm"
            case magvit2.AdaptiveGroupNorm():
                kind = "ada norm"
            case magvit2.Upsample():
                kind = f"to space {','.join(map(str, module.strides))}"
            case _:
                return out
        rows.append((path[1], kind, *sizes))
        return out

    def run(video):
        with magvit2.nn.intercept_methods(note):
            return Magvit2(config).init_with_output(jax.random.key(0), video)

    (restored, latents), variables = jax.eval_shape(run, jax.ShapeDtypeStruct(shape, jnp.float32))
    return rows, restored, latents, variables["params"]


def as_rows(table):
    lines = [line.split("  ") for line in table.strip().splitlines()]
    return [tuple(cell.strip() for cell in line if cell.strip()) for line in lines]


def as_table(rows):
    """Columns apart by at least two spaces, so that both sides parse alike."""
    return as_rows("\n".join("  ".join(row) for row in rows))


def spaced(table):
    """The drawings above keep one space before the last column where names are long."""
    found = []
    for line in table.strip().splitlines():
        head, arrow, size = line.rsplit(None, 2)
        found.append(f"{head}  {arrow}  {size}")
    return as_rows("\n".join(found))


@pytest.mark.parametrize(("half", "table"), [("encoder", ENCODER), ("decoder", DECODER)])
def test_layers_are_those_of_the_table(half, table):
    rows, restored, latents, _ = layers(PAPER, half, CLIP)
    assert as_table(rows) == spaced(table)
    assert latents.shape == (1, 5, 16, 16, 18)
    assert restored.shape == CLIP


@pytest.mark.parametrize(("strided_kernel", "encoder_millions"), [(4, 150.3), (3, 144.9)])
def test_parameter_counts_are_the_published_ones(strided_kernel, encoder_millions):
    config = MagvitConfig(strided_kernel=strided_kernel)
    video = jax.ShapeDtypeStruct((1, 1, 8, 8, 3), jnp.float32)
    params = jax.eval_shape(lambda v: Magvit2(config).init(jax.random.key(0), v), video)["params"]
    assert round(count_parameters(params["encoder"]) / 1e6, 1) == encoder_millions
    assert round(count_parameters(params["decoder"]) / 1e6, 1) == 225.7


def test_a_preset_keeps_the_order_of_layers():
    small = MagvitConfig(
        base_channels=4, multipliers=(1, 2, 3, 4), blocks_per_stage=1, norm_groups=2, num_bits=6
    )
    for half in ("encoder", "decoder"):
        rows, restored, latents, _ = layers(small, half, (2, 5, 16, 24, 3))
        paper_rows, *_ = layers(PAPER, half, CLIP)
        names = [(name.split()[0], kind) for name, kind, *_ in rows]
        assert names == [(name.split()[0], kind) for name, kind, *_ in paper_rows]
    assert latents.shape == (2, 2, 2, 3, 6)
    assert restored.shape == (2, 5, 16, 24, 3)


def test_residual_blocks_have_two_bare_convolutions_and_a_bare_skip():
    _, _, _, params = layers(PAPER, "encoder", CLIP)
    first, second = (params["encoder"]["stage_1"][f"block_{i}"] for i in (0, 1))
    assert set(first) == {"norm_0", "conv_0", "norm_1", "conv_1", "conv_skip"}
    assert set(second) == {"norm_0", "conv_0", "norm_1", "conv_1"}
    assert {name: set(first[name]) for name in ("conv_0", "conv_1", "conv_skip")} == {
        name: {"kernel"} for name in ("conv_0", "conv_1", "conv_skip")
    }
    assert first["conv_skip"]["kernel"].shape == (1, 1, 1, 128, 256)


def test_refusals_of_configs():
    with pytest.raises(ValueError, match=r"multipliers=\(1, 2\) has 2 entries"):
        MagvitConfig(multipliers=(1, 2))
    with pytest.raises(ValueError, match="blocks_per_stage=0 must be at least 1"):
        MagvitConfig(blocks_per_stage=0)
    with pytest.raises(ValueError, match="norm_groups=32 must divide the channels"):
        MagvitConfig(base_channels=8)
    with pytest.raises(ValueError, match="num_bits=0 must be 1 to 24"):
        MagvitConfig(num_bits=0)
    with pytest.raises(ValueError, match="strided_kernel=5 must be 3 or 4"):
        MagvitConfig(strided_kernel=5)
    with pytest.raises(ValueError, match="encoder_norm='batch' must be 'frame' or 'place'"):
        MagvitConfig(encoder_norm="batch")


@pytest.mark.parametrize(("norm", "is_local"), [("frame", False), ("place", True)])
def test_norms_of_one_place_leave_far_codes_alone(norm, is_local):
    config = MagvitConfig(
        base_channels=2, multipliers=(1, 1, 1, 1), blocks_per_stage=1, norm_groups=1, num_bits=3,
        encoder_norm=norm,
    )  # fmt: skip
    params = magvit2.init_params(config, jax.random.key(0))
    clip = jax.random.uniform(jax.random.key(1), (1, 1, 8, 128, 3))
    encode = jax.jit(
        lambda video: Magvit2(config).apply({"params": params}, video, method="encode_to_latents")
    )
    latents, changed = encode(clip), encode(clip.at[..., :8, :].set(0.0))
    far = jnp.abs(latents - changed)[0, 0, 0].max(axis=-1)
    assert far[0] > 1e-3
    # A code sees at most seven places to either side: four convolutions at its own size, and finer.
    assert (far[8:] == 0.0).all() == is_local


def test_places_are_normalised_alone():
    x = jnp.asarray([[[[[1.0, 3.0, 5.0, 5.0], [0.0, 4.0, 0.0, 0.0]]]]])
    found = magvit2.normalize_places(
        x, 2, jnp.ones(4), jnp.asarray([0.0, 0.0, 0.0, 7.0]), epsilon=0.0001
    )
    half = [[-1.0, 1.0, 0.0, 7.0], [-1.0, 1.0, 0.0, 7.0]]
    assert jnp.allclose(found[0, 0, 0], jnp.asarray(half), atol=1e-3)
