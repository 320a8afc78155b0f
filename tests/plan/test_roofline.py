"""Seconds from counts, by hand."""

import pytest

from poet.plan import roofline
from poet.plan.chips import parse_topology
from poet.plan.costs import Costs, Op
from poet.plan.exchanges import Collective
from poet.plan.products import Product
from poet.plan.roofline import Factors

SLICE = parse_topology("v5e:16x16")
PLAIN = Factors(
    matmul_efficiency={"v5e": 1.0},
    hbm_efficiency=1.0,
    link_efficiency=1.0,
    exposed_gather=1.0,
    exposed_other=1.0,
    exposed_dcn=1.0,
    hop_s=0.0,
    dispatch_s=0.0,
)


def test_a_large_product_runs_at_the_peak():
    product = Product(1024, 1024, 1024, times=3)
    assert roofline.product_s(product, SLICE, PLAIN) == 3 * 2 * 1024**3 / 197e12
    half = Factors(matmul_efficiency={"v5e": 0.5})
    assert roofline.product_s(product, SLICE, half) == 2 * 3 * 2 * 1024**3 / 197e12


@pytest.mark.parametrize(
    ("product", "share"),
    [
        (Product(1024, 128, 128), 1.0),
        (Product(1024, 64, 128), 0.5),
        (Product(1024, 128, 64), 0.625),  # better with the rows standing still: 64 of 64, 1024
        (Product(8, 128, 192), 0.75),
        (Product(1, 128, 128), 0.125),
    ],
)
def test_narrow_products_leave_part_of_the_unit_idle(product, share):
    found = roofline.fill(product, 128)
    assert found == (1.0 if share == 0.625 else share)


def test_an_operation_takes_the_longer_of_products_and_bytes():
    compute = Op((Product(1024, 1024, 1024),), 1.0)
    memory = Op((), 0.819e9, times=2)
    found = roofline.predict(Costs((compute, memory), ()), SLICE, PLAIN)
    assert found.memory_s == pytest.approx(2e-3, rel=1e-6)
    assert found.calibrated_s == pytest.approx(2 * 1024**3 / 197e12 + 2e-3)
    assert found.optimistic_s == pytest.approx(2e-3, rel=1e-6)
    assert found.limit == "reading and writing memory (99% of the time)"


def test_exchanges_use_both_directions_of_a_ring():
    # 16 chips along one closed side: two links of 45 GB/s; 15/16 of the bytes pass each chip.
    gather = Collective("all-gather", 96e9, 16)
    assert roofline.exchange_s(gather, SLICE, 0.0) == (pytest.approx(1.0), 0.0)
    total = Collective("all-reduce", 96e9, 16, times=2)
    assert roofline.exchange_s(total, SLICE, 0.0)[0] == pytest.approx(4.0)
    # All 256 chips span both sides, which doubles the links.
    whole = Collective("reduce-scatter", 180e9 * 256 / 255, 256)
    assert roofline.exchange_s(whole, SLICE, 0.0)[0] == pytest.approx(1.0)
    # Half of them fill one side and half of the other, which is then open: three links.
    half = Collective("reduce-scatter", 135e9 * 128 / 127, 128)
    assert roofline.exchange_s(half, SLICE, 0.0)[0] == pytest.approx(1.0)
    # A side of 4 is not closed: one link.
    small = parse_topology("v5e:4x4")
    assert roofline.exchange_s(Collective("all-gather", 45e9 * 4 / 3, 4), small, 0.0)[
        0
    ] == pytest.approx(1.0)


def test_between_slices_every_chip_carries_its_own_part():
    two = parse_topology("v5e:16x16@2")
    shared = Collective("all-reduce", 3.1e9, 2, num_slices=2)
    assert roofline.exchange_s(shared, two, 0.0) == (0.0, pytest.approx(1.0))


def test_only_the_exposed_share_counts_where_there_is_work_to_hide_the_rest():
    gather = Collective("all-gather", 96e9, 16)  # one second
    factors = Factors(
        exposed_gather=0.25, link_efficiency=1.0, hbm_efficiency=1.0, hop_s=0.0, dispatch_s=0.0
    )
    busy = Op((), 2 * 0.819e12)  # two seconds
    found = roofline.predict(Costs((busy,), (gather,)), SLICE, factors)
    assert found.calibrated_s == pytest.approx(2.25)
    alone = roofline.predict(Costs((), (gather,)), SLICE, factors)
    assert alone.calibrated_s == pytest.approx(1.0) == alone.optimistic_s


def test_what_takes_longest_is_summed_by_place():
    ops = (Op((), 0.819e9, 1.0, "a"), Op((), 0.819e9, 2.0, "a"), Op((), 0.819e9, 1.0, "b"))
    gather = Collective("all-gather", 96e9, 16, what="c")
    found = roofline.slowest(Costs(ops, (gather,)), SLICE, PLAIN, count=2)
    assert found == [
        (pytest.approx(1.0), "all-gather", "c"),
        (pytest.approx(3e-3), "memory", "a"),
    ]
