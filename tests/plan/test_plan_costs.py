"""What the text of a program says: loops, products, bytes, exchanges."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from poet.layers.splash import SplashBlocks
from poet.plan import costs, exchanges, hlo, kernels
from poet.plan.products import Product

# A loop of five over a product and an exchange, as XLA for TPUs writes it.
TEXT = """HloModule jit_f, is_scheduled=true

%fused (p0: bf16[5,64,32], p1: bf16[16,64], p2: s32[]) -> bf16[16,32] {
  %p0 = bf16[5,64,32]{2,1,0:T(8,128)(2,1)} parameter(0)
  %p2 = s32[]{:T(128)} parameter(2)
  %zero = s32[]{:T(128)} constant(0)
  %slice = bf16[1,64,32]{2,1,0} dynamic-slice(%p0, %p2, %zero, %zero), dynamic_slice_sizes={1,64,32}
  %flat = bf16[64,32]{1,0} bitcast(%slice)
  %p1 = bf16[16,64]{1,0} parameter(1)
  ROOT %conv = bf16[16,32]{1,0} convolution(%p1, %flat), dim_labels=bf_io->bf
}

%body (arg: (s32[], bf16[5,64,32], bf16[16,64])) -> (s32[], bf16[5,64,32], bf16[16,64]) {
  %arg = (s32[]{:T(128)}, bf16[5,64,32]{2,1,0}, bf16[16,64]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%arg), index=0
  %w = bf16[5,64,32]{2,1,0} get-tuple-element(%arg), index=1
  %x = bf16[16,64]{1,0} get-tuple-element(%arg), index=2
  %y = bf16[16,32]{1,0} fusion(%w, %x, %i), calls=%fused, metadata={op_name="jit(f)/a/dot_general"}
  %sum = bf16[16,64]{1,0} all-gather(%y), replica_groups=[2,2]<=[2,2]T(1,0), dimensions={1}
  ROOT %out = (s32[], bf16[5,64,32], bf16[16,64]) tuple(%i, %w, %sum)
}

%condition (arg.1: (s32[], bf16[5,64,32], bf16[16,64])) -> pred[] {
  %arg.1 = (s32[], bf16[5,64,32]{2,1,0}, bf16[16,64]{1,0}) parameter(0)
  %i.1 = s32[] get-tuple-element(%arg.1), index=0
  %five = s32[] constant(5)
  ROOT %less = pred[] compare(%i.1, %five), direction=LT
}

ENTRY %main (a: (s32[], bf16[5,64,32], bf16[16,64])) -> (s32[], bf16[5,64,32], bf16[16,64]) {
  %a = (s32[], bf16[5,64,32]{2,1,0}, bf16[16,64]{1,0}) parameter(0)
  ROOT %loop = (s32[], bf16[5,64,32], bf16[16,64]) while(%a), condition=%condition, body=%body
}
"""


def test_a_loops_body_counts_as_often_as_it_runs():
    found = costs.count(hlo.parse(TEXT), num_devices=4, num_slices=2)
    (op,) = found.ops
    assert op.times == 5 and op.what == "jit(f)/a/dot_general"
    assert found.flops == 5 * 2 * 16 * 64 * 32
    # One layer's slice of the weights is read, not all five; the index is 4 bytes.
    assert op.hbm_bytes == 2 * (64 * 32 + 16 * 64 + 16 * 32) + 4
    (exchange,) = found.collectives
    assert (exchange.kind, exchange.num_bytes, exchange.times) == ("all-gather", 2 * 16 * 64, 5)
    # Devices 0 and 2, one in each slice of two.
    assert (exchange.group_size, exchange.num_slices) == (2, 2)
    assert exchanges.by_kind(found.collectives) == {"all-gather": {"count": 5, "bytes": 10_240}}


SENT = """HloModule sent

ENTRY %main (a: f32[128]) -> f32[128] {
  %a = f32[128]{0} parameter(0)
  %token = token[] after-all()
  %send = (f32[128]{0}, u32[], token[]) send(%a, %token), channel_id=2, is_host_transfer=true, frontend_attributes={_xla_host_transfer_handler_name="xla_megascale_runtime",_xla_megascale_reduce_operation="SUM",_xla_megascale_target="{1,2}x{0:3}",_xla_megascale_transfer_type="ALL_REDUCE"}
  %send-done = token[] send-done(%send), channel_id=2, is_host_transfer=true
  %recv = (f32[128]{0}, u32[], token[]) recv(%token), channel_id=1, is_host_transfer=true, frontend_attributes={_xla_megascale_transfer_type="ALL_REDUCE"}
  %recv-done = (f32[128]{0}, token[]) recv-done(%recv), channel_id=1, is_host_transfer=true
  ROOT %out = f32[128]{0} get-tuple-element(%recv-done), index=0
}
"""  # noqa: E501


def test_what_hosts_carry_between_slices_is_an_exchange():
    found = costs.count(hlo.parse(SENT), num_devices=8, num_slices=2)
    (exchange,) = found.collectives
    assert (exchange.kind, exchange.num_bytes) == ("all-reduce", 512)
    # A chip and its equal in the other slice.
    assert (exchange.group_size, exchange.num_slices) == (2, 2)
    assert not found.ops


def test_what_lies_on_the_chip_is_not_read_from_memory():
    text = TEXT.replace("%x = bf16[16,64]{1,0}", "%x = bf16[16,64]{1,0:T(8,128)(2,1)S(1)}")
    (op,) = costs.count(hlo.parse(text), 4).ops
    assert op.hbm_bytes == 2 * (64 * 32 + 16 * 32) + 4


def test_a_stated_number_of_rounds_is_believed():
    stated = 'body=%body, backend_config={"known_trip_count":{"n":"7"}}'
    (op,) = costs.count(hlo.parse(TEXT.replace("body=%body", stated)), 4).ops
    assert op.times == 7


def test_a_text_that_is_no_program_is_refused():
    with pytest.raises(ValueError, match="no ENTRY computation; expected what `compiled.as_text"):
        hlo.parse("nothing")


@pytest.mark.parametrize(
    ("attributes", "group"),
    [
        ("replica_groups={{0,2},{1,3}}, x", [0, 2]),
        ("replica_groups=[2,4]<=[8]", [0, 1, 2, 3]),
        ("replica_groups=[4,2]<=[2,4]T(1,0)", [0, 4]),
        ("replica_groups=mesh['axis_0'=2,'axis_1'=1,'axis_2'=4] {'axis_2'}", [0, 1, 2, 3]),
        ("replica_groups=mesh['axis_0'=2,'axis_1'=4] {'axis_0'}", [0, 4]),
        ("source_target_pairs={{0,0},{1,2},{2,1},{3,3}}", [1, 2]),
        ("replica_groups={}", [0, 1, 2, 3, 4, 5, 6, 7]),
    ],
)
def test_the_devices_of_an_exchange(attributes, group):
    assert exchanges.first_group(attributes, 8) == group


def convolution(shapes, rest):
    left, right, out = (f"f32[{','.join(map(str, shape))}]" for shape in shapes)
    text = f"""HloModule c

ENTRY %main (a: {left}, b: {right}) -> {out} {{
  %a = {left} parameter(0)
  %b = {right} parameter(1)
  ROOT %c = {out} convolution(%a, %b), {rest}
}}
"""
    return costs.count(hlo.parse(text)).ops[0].products[0]


def test_a_batched_product_that_is_written_as_a_convolution():
    # From a TPU program: 24 x 2 heads, 16 rows, 84 columns, 32 wide.
    product = convolution(
        [(24, 2, 16, 32), (24, 2, 32, 84), (24, 2, 16, 84)],
        "window={size=24x2 stride=23x1 lhs_dilate=24x2}, dim_labels=01bf_01io->01bf",
    )
    assert product.flops == 2 * 24 * 2 * 16 * 32 * 84
    assert (product.inner, product.columns) == (32, 84)


def test_a_product_with_two_output_axes_that_is_written_as_a_convolution():
    product = convolution(
        [(24, 64, 128, 1), (2, 64, 128, 1), (24, 64, 2, 64)],
        "window={size=1x2 pad=0_0x1_1 rhs_reversal=0x1}, dim_labels=0bf1_1oi0->0b1f",
    )
    # 24 x 64 rows, 128 wide, times [128, 2 x 64].
    assert product.flops == 2 * 24 * 64 * 128 * 2 * 64


def test_a_padded_convolution_counts_only_what_it_multiplies():
    product = convolution(
        [(1, 4, 3), (3, 3, 5), (1, 4, 5)], "window={size=3 pad=1_1}, dim_labels=b0f_0io->b0f"
    )
    # Places 0 and 3 have two neighbours, 1 and 2 have three: 10 of 12.
    assert product.flops == 2 * 10 * 3 * 5


def test_a_product_of_a_gpus_library():
    text = """HloModule g

ENTRY %main (a: bf16[4,16,32], b: bf16[4,32,8]) -> bf16[4,16,8] {
  %a = bf16[4,16,32] parameter(0)
  %b = bf16[4,32,8] parameter(1)
  ROOT %c = (bf16[4,16,8], s8[64]) custom-call(%a, %b), custom_call_target="__cublas$gemm", REST
}
"""
    rest = (
        'backend_config={"gemm_backend_config":{"dot_dimension_numbers":{'
        '"lhs_contracting_dimensions":["2"],"rhs_contracting_dimensions":["1"],'
        '"lhs_batch_dimensions":["0"],"rhs_batch_dimensions":["0"]}}}'
    )
    (op,) = costs.count(hlo.parse(text.replace("REST", rest))).ops
    assert op.flops == 2 * 4 * 16 * 32 * 8


@pytest.mark.parametrize(
    ("left", "right", "share"), [("s8", "s8", 1), ("f8e4m3fn", "f8e5m2", 1), ("bf16", "s8", 0)]
)
def test_products_of_numbers_of_8_bits_are_told_apart(left, right, share):
    text = f"""HloModule e

ENTRY %main (a: {left}[16,32], b: {right}[32,8]) -> bf16[16,8] {{
  %a = {left}[16,32] parameter(0)
  %b = {right}[32,8] parameter(1)
  ROOT %c = bf16[16,8] convolution(%a, %b), dim_labels=bf_io->bf
}}
"""
    found = costs.count(hlo.parse(text))
    assert found.flops == 2 * 16 * 32 * 8 and found.eight_bit_flops == share * found.flops


def test_loops_are_counted_as_if_they_were_unrolled():
    def model(unroll):
        def layer(x, w):
            return jnp.tanh(x @ w), None

        def loss(w, x):
            return jnp.sum(jax.lax.scan(layer, x, w, unroll=unroll)[0])

        shapes = (jnp.zeros((4, 48, 48)), jnp.zeros((32, 48)))
        return jax.jit(jax.grad(loss)).lower(*shapes).compile()

    rolled, flat = model(1), model(4)
    expected = 2 * 32 * 48 * 48 * (4 * 3 - 1)  # the first input needs no gradient
    assert costs.count(hlo.parse(rolled.as_text())).flops in (expected, expected + 2 * 32 * 48 * 48)
    # XLA itself counts a loop's body once, and everything else besides products.
    assert rolled.cost_analysis()["flops"] < 0.5 * expected
    assert flat.cost_analysis()["flops"] == pytest.approx(expected, rel=0.15)


def test_a_programs_parts_add_up():
    one = costs.count(hlo.parse(TEXT), 4)
    both = one + one
    assert both.flops == 2 * one.flops and both.hbm_bytes == 2 * one.hbm_bytes
    assert np.isclose(sum(c.total_bytes for c in both.collectives), 2 * 10_240)


# A kernel whose metadata has line breaks, as splash attention's has, in the same loop.
KERNEL = """  %y = bf16[16,32] custom-call(%x), custom_call_target="tpu_custom_call", a={b={
"blocks":"{\\"block_q\\": 512}"
}}, metadata={op_name="jit(f)/splash_mha_fwd_residuals/pallas_call"}"""
FUSION = next(line for line in TEXT.splitlines() if line.startswith("  %y = "))


def test_a_kernels_products_come_from_outside_the_text():
    module = hlo.parse(TEXT.replace(FUSION, KERNEL))
    assert costs.count(module, 4).unknown == ("jit(f)/splash_mha_fwd_residuals/pallas_call",)
    known = costs.Op((Product(4, 8, 16),), 100.0, what="attention")
    found = costs.count(module, 4, kernels={"splash_mha_fwd": known})
    (op,) = found.ops
    assert found.unknown == () and op.what == "attention" and op.times == 5
    assert op.flops == 5 * 2 * 4 * 8 * 16
    # What it reads and writes by the text, and what it reads again.
    assert op.hbm_bytes == 2 * (16 * 64 + 16 * 32) + 100


def test_what_an_attention_kernel_does():
    """Two blocks of 128 rows and keys, three pairs: a block of keys is read twice, so of rows."""
    blocks = SplashBlocks(queries=128, keys=128)
    made = kernels.attention_kernels(blocks, 200, 5, num_rows=2, num_heads=3, head_dim=64)
    products = {name: op.flops / (2 * 128 * 128 * 64) for name, op in made.items()}
    # Of six heads and three pairs: two products forward; four and three backward.
    assert products == {
        "splash_mha_fwd": 18 * 2,
        "splash_mha_dkv": 18 * 4,
        "splash_mha_dq": 18 * 3,
    }
    block = 128 * 64 * 2
    assert made["splash_mha_fwd"].hbm_bytes == made["splash_mha_dq"].hbm_bytes == 6 * 2 * block
    assert made["splash_mha_dkv"].hbm_bytes == 6 * (2 * block + 2 * 128 * 8 * 4)
