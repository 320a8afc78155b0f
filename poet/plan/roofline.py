"""From counts to seconds: a roofline for every operation, and two predictions of a step.

Optimistic: products at the chip's peak, memory and links at their full rate, everything that could
happen at one time does (the longest of the three). Calibrated: each operation takes the longer of
its products, at an efficiency that depends on their shape, and of its bytes; operations follow each
other; a stated share of the exchanges is not hidden behind them.

The efficiencies are what published results need (`published.py`, docs/scale.md); none is measured
on a chip here.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence

from poet.plan.chips import Topology
from poet.plan.costs import Costs, Op
from poet.plan.exchanges import Collective
from poet.plan.products import Product


@dataclasses.dataclass(frozen=True, kw_only=True)
class Factors:
    """What separates a real step from the optimistic one.

    Attributes:
      matmul_efficiency: Chip -> share of the peak that large products reach inside a model.
      default_efficiency: Of chips that are not named.
      hbm_efficiency: Share of the memory's bandwidth.
      link_efficiency: Share of the links' bandwidth that an exchange reaches.
      exposed_gather: Share of the time of weight gathers and gradient scatters that products do
        not hide.
      exposed_other: The same of all other exchanges in a slice: sums over `tensor` stand between
        two products that need each other.
      exposed_dcn: The same of exchanges between slices.
      hop_s: Time that one step of an exchange takes beside its bytes.
      dispatch_s: Time of a program beside its operations.
    """

    matmul_efficiency: Mapping[str, float] = dataclasses.field(
        default_factory=lambda: {"v4": 0.80, "v5e": 0.93, "v5p": 0.80, "v6e": 0.60}
    )
    default_efficiency: float = 0.70
    hbm_efficiency: float = 0.85
    link_efficiency: float = 0.85
    exposed_gather: float = 0.3
    exposed_other: float = 0.7
    exposed_dcn: float = 0.5
    hop_s: float = 1e-6
    dispatch_s: float = 1e-3

    def of_chip(self, name: str) -> float:
        """Efficiency of large products."""
        return self.matmul_efficiency.get(name, self.default_efficiency)


CALIBRATED = Factors()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prediction:
    """Seconds of a step on one chip.

    Attributes:
      optimistic_s: Lower bound.
      calibrated_s: What to expect.
      products_s: Of the matrix products at the chip's peak.
      memory_s: Of all bytes at the memory's bandwidth.
      links_s: Of exchanges inside slices at the links' bandwidth.
      dcn_s: Of exchanges between slices.
      parts: Share of the calibrated time: "products" and "memory" (operations limited by each),
        "links", "dcn", "dispatch".
    """

    optimistic_s: float
    calibrated_s: float
    products_s: float
    memory_s: float
    links_s: float
    dcn_s: float
    parts: Mapping[str, float]

    @property
    def limit(self) -> str:
        """The largest part of the calibrated time, in words."""
        name = max(self.parts, key=self.parts.get)
        words = {
            "products": "matrix products",
            "memory": "reading and writing memory",
            "links": "exchanges over the links of a slice",
            "dcn": "exchanges between slices",
            "dispatch": "starting programs",
        }
        return f"{words[name]} ({self.parts[name]:.0%} of the time)"


def predict(
    costs: Costs, topology: Topology, factors: Factors = CALIBRATED, num_programs: int = 1
) -> Prediction:
    """How long a step with these costs takes.

    Args:
      costs: Of one chip.
      topology: What it runs on.
      factors: See there.
      num_programs: Programs that are started one after the other.
    """
    chip = topology.chip
    spent = {"products": 0.0, "memory": 0.0}
    for op in costs.ops:
        compute, memory = op_s(op, topology, factors)
        spent["products" if compute >= memory else "memory"] += max(compute, memory)
    links, dcn, exposed = 0.0, 0.0, {"links": 0.0, "dcn": 0.0}
    for collective in costs.collectives:
        seconds = exchange_s(collective, topology, factors.hop_s)
        links += seconds[0]
        dcn += seconds[1]
        shown = exposed_s(collective, topology, factors)
        exposed["links"] += shown[0]
        exposed["dcn"] += shown[1]
    spent = spent | exposed | {"dispatch": num_programs * factors.dispatch_s}
    # Only what there is can hide an exchange: the links' whole time is the least.
    hidden = spent["products"] + spent["memory"]
    for name, whole in (("links", links), ("dcn", dcn)):
        spent[name] = max(spent[name], whole / factors.link_efficiency - hidden)
    total = sum(spent.values())
    products = costs.flops / chip.bf16_flops
    memory = costs.hbm_bytes / chip.hbm_bytes_per_s
    return Prediction(
        optimistic_s=max(products, memory, links, dcn),
        calibrated_s=total,
        products_s=products,
        memory_s=memory,
        links_s=links,
        dcn_s=dcn,
        parts={name: seconds / total for name, seconds in spent.items()},
    )


def op_s(op: Op, topology: Topology, factors: Factors) -> tuple[float, float]:
    """(seconds of an operation's products, seconds of its bytes), all times."""
    compute = sum(product_s(product, topology, factors) for product in op.products)
    memory = op.hbm_bytes / (topology.chip.hbm_bytes_per_s * factors.hbm_efficiency)
    return op.times * compute, op.times * memory


def exposed_s(collective: Collective, topology: Topology, factors: Factors) -> tuple[float, float]:
    """(seconds over links, seconds between slices) of an exchange that nothing hides."""
    links, dcn = exchange_s(collective, topology, factors.hop_s)
    is_gather = collective.kind in ("all-gather", "reduce-scatter")
    share = factors.exposed_gather if is_gather else factors.exposed_other
    at = factors.link_efficiency
    return share * links / at, factors.exposed_dcn * dcn / at


def slowest(
    costs: Costs, topology: Topology, factors: Factors = CALIBRATED, count: int = 8
) -> list[tuple[float, str, str]]:
    """(calibrated seconds, kind, place in the model) of what takes longest, summed by place."""
    sums: dict[tuple[str, str], float] = {}
    for op in costs.ops:
        compute, memory = op_s(op, topology, factors)
        key = ("products" if compute >= memory else "memory", op.what)
        sums[key] = sums.get(key, 0.0) + max(compute, memory)
    for collective in costs.collectives:
        key = (collective.kind, collective.what)
        sums[key] = sums.get(key, 0.0) + sum(exposed_s(collective, topology, factors))
    ordered = sorted(((seconds, *key) for key, seconds in sums.items()), reverse=True)
    return ordered[:count]


def product_s(product: Product, topology: Topology, factors: Factors) -> float:
    """Seconds of a product: the efficiency of large ones times how full the matrix unit is."""
    chip = topology.chip
    each = factors.of_chip(chip.name) * fill(product, chip.matrix_dim)
    return product.flops / (chip.bf16_flops * max(each, 1e-6))


def fill(product: Product, matrix_dim: int) -> float:
    """Share of the matrix unit that a product uses; the better of the two ways to lay it.

    One factor stands still in tiles of matrix_dim x matrix_dim, the other streams past in rows of
    eight.
    """

    def used(size: float, tile: int) -> float:
        return size / (math.ceil(size / tile) * tile) if size > 0 else 1.0

    streams = [
        used(product.columns, matrix_dim) * used(product.rows, 8),
        used(product.rows, matrix_dim) * used(product.columns, 8),
    ]
    return used(product.inner, matrix_dim) * max(streams)


def exchange_s(collective: Collective, topology: Topology, hop_s: float) -> tuple[float, float]:
    """(seconds over links, seconds between slices) of an exchange, all times, at full rate.

    A gather or scatter of V bytes over g chips moves V (g - 1) / g past every chip, a sum twice
    that, an exchange of all with all a quarter (half the way round a ring in both directions), a
    shift V over one link. Between slices every chip carries its own part of V.
    """
    chip, total = topology.chip, collective.group_size
    slices = max(1, collective.num_slices)
    size = max(1, total // slices)
    factor = {"all-reduce": 2.0, "all-to-all": 0.25, "ragged-all-to-all": 0.25}
    weight = factor.get(collective.kind, 1.0)
    links = 0.0
    if size > 1 and chip.link_bytes_per_s:
        rate = ring_bytes_per_s(topology, size)
        share = 1.0 if collective.kind.startswith("collective") else (size - 1) / size
        hops = (
            1 if collective.kind == "collective-permute" else size ** (1 / dims_of(topology, size))
        )
        links = weight * collective.num_bytes * share / rate + hops * hop_s
    dcn = 0.0
    if slices > 1:
        rate = max(chip.dcn_bytes_per_s, 1.0)
        dcn = weight * collective.num_bytes / size * (slices - 1) / slices / rate
    return links * collective.times, dcn * collective.times


def dims_of(topology: Topology, group_size: int) -> int:
    """Sides of a slice that a group of chips has to span: as few as hold it."""
    room = 1
    for count, side in enumerate(sorted(topology.shape, reverse=True), start=1):
        room *= side
        if room >= group_size:
            return count
    return len(topology.shape)


def ring_bytes_per_s(topology: Topology, group_size: int) -> float:
    """What passes a chip in an exchange in a group: two links a side that is closed to a ring.

    The group fills its sides one after the other; the last may be a part of one, which is open.
    """
    chip = topology.chip
    sides: Sequence[int] = sorted(topology.shape, reverse=True)[: dims_of(topology, group_size)]
    ways, left = 0.0, group_size
    for side in sides:
        ways += 2.0 if side % chip.wraps_at == 0 and left >= side else 1.0
        left = -(-left // side)
    return ways * chip.link_bytes_per_s


def op_from_product(product: Product, bytes_per_number: float = 2.0, what: str = "") -> Op:
    """An operation that reads both factors from memory and writes the result."""
    moved = (
        product.rows * product.inner
        + product.inner * product.columns
        + product.rows * product.columns
    )
    one = dataclasses.replace(product, times=1.0)
    return Op((one,), bytes_per_number * moved * product.batch, product.times, what)
