"""Published training results of TPUs, rebuilt from their stated shapes to fix the factors.

Each row is a MaxText run whose script states sizes, batch, mesh and rematerialisation. The same
`predict` that judges our compiled steps judges a list of products, exchanges and memory traffic
made from these sizes. MFU follows the rows' own count: six FLOPs a weight and token, and attention
over all pairs (MaxText before July 2025), so that both sides divide by the same thing.
"""

import dataclasses

from poet.plan import roofline
from poet.plan.chips import Topology, parse_topology
from poet.plan.costs import Costs, Op
from poet.plan.exchanges import Collective
from poet.plan.products import Product
from poet.plan.roofline import CALIBRATED, Factors


@dataclasses.dataclass(frozen=True, kw_only=True)
class PublishedRun:
    """A run and what was measured.

    Attributes:
      name: Of the model.
      topology: Chips.
      mfu: Measured share of the peak, by the run's own count of FLOPs.
      num_layers: Layers.
      d_model: Width.
      queries: Heads x width of a head.
      keys: Key/value heads x width of a head.
      head_dim: Width of a head.
      mlp_dim: Hidden width of the gated MLP.
      vocabulary: Ids.
      length: Tokens of a sequence.
      batch_per_chip: Sequences.
      recomputed: What the backward pass computes again: "all" of a layer, "attention" only, or
        "mlp" (the widening products and attention; the rest was kept in the host's memory).
      tensor: Chips that share a layer's kernels.
      source: Where it is stated.
    """

    name: str
    topology: Topology
    mfu: float
    num_layers: int
    d_model: int
    queries: int
    keys: int
    head_dim: int
    mlp_dim: int
    vocabulary: int
    length: int
    batch_per_chip: int
    recomputed: str
    tensor: int = 1
    source: str = ""

    @property
    def tokens_per_chip(self) -> int:
        """Tokens of a step."""
        return self.batch_per_chip * self.length

    @property
    def layer_weights(self) -> int:
        """Numbers in the kernels of one layer."""
        return self.d_model * (2 * self.queries + 2 * self.keys + 3 * self.mlp_dim)

    @property
    def num_weights(self) -> int:
        """Of all products: layers and the head."""
        return self.num_layers * self.layer_weights + self.d_model * self.vocabulary

    @property
    def stated_flops(self) -> float:
        """FLOPs of a chip and step, as the run counted them."""
        attention = 12 * self.num_layers * self.length * self.queries
        return self.tokens_per_chip * (6.0 * self.num_weights + attention)


_LLAMA_8B = {
    "num_layers": 32,
    "d_model": 4096,
    "queries": 4096,
    "keys": 1024,
    "head_dim": 128,
    "mlp_dim": 14336,
    "vocabulary": 128_256,
}
# The models "16b" and "32b" of MaxText's scripts: heads of 256, gated MLP.
_MAXTEXT = {
    "num_layers": 32,
    "queries": 8192,
    "keys": 8192,
    "head_dim": 256,
    "mlp_dim": 28672,
    "vocabulary": 32_000,
}

RUNS = (
    PublishedRun(
        name="Llama-3.1-8B",
        topology=parse_topology("v6e:16x16"),
        mfu=0.455,
        **_LLAMA_8B,
        length=8192,
        batch_per_chip=4,
        recomputed="mlp",
        source="tpu-recipes, trillium, Llama3.1-8B-MaxText v6e-256: 417.4 TFLOP/s a chip",
    ),
    PublishedRun(
        name="Llama-3.1-70B",
        topology=parse_topology("v6e:16x16"),
        mfu=0.503,
        num_layers=80,
        d_model=8192,
        queries=8192,
        keys=1024,
        head_dim=128,
        mlp_dim=28672,
        vocabulary=128_256,
        length=8192,
        batch_per_chip=5,
        recomputed="mlp",
        source="tpu-recipes, trillium, Llama3.1-70B-MaxText v6e-256: 462.3 TFLOP/s a chip",
    ),
    PublishedRun(
        name="16B",
        topology=parse_topology("v5e:16x16"),
        mfu=0.611,
        d_model=4096,
        **_MAXTEXT,
        length=2048,
        batch_per_chip=6,
        recomputed="all",
        source="maxtext, configs/tpu/v5e, 16b.sh on v5e-256: 120 TFLOP/s a chip",
    ),
    PublishedRun(
        name="32B",
        topology=parse_topology("v5e:16x16"),
        mfu=0.669,
        d_model=8192,
        **_MAXTEXT,
        length=2048,
        batch_per_chip=4,
        recomputed="all",
        source="maxtext, configs/tpu/v5e, 32b.sh on v5e-256: 132 TFLOP/s a chip",
    ),
    PublishedRun(
        name="32B",
        topology=parse_topology("v5p:4x4x4"),
        mfu=0.715,
        d_model=8192,
        **_MAXTEXT,
        length=2048,
        batch_per_chip=7,
        recomputed="attention",
        tensor=4,
        source="maxtext, configs/tpu/v5p, 32b.sh on v5p-128: 328 TFLOP/s a chip",
    ),
)

# Not looked at when the factors were chosen.
HELD_OUT = PublishedRun(
    name="Mistral-7B",
    topology=parse_topology("v6e:2x4"),
    mfu=0.471,
    **(_LLAMA_8B | {"vocabulary": 32_000}),
    length=8192,
    batch_per_chip=6,
    recomputed="mlp",
    source="tpu-recipes, trillium, Mistral-7B-MaxText v6e-8: 432.0 TFLOP/s a chip",
)


def costs_of(run: PublishedRun) -> Costs:
    """What a chip does in one step: products, the traffic between them, exchanges.

    Attention is one kernel that keeps its weights on the chip and skips pairs above the diagonal;
    weights are gathered in bf16 for the forward and for the backward pass, gradients scattered
    once in f32, AdamW reads and writes f32 weights and moments.
    """
    rows, tensor = run.tokens_per_chip * run.tensor, run.tensor
    forward = [
        Product(rows, run.d_model, (run.queries + 2 * run.keys) / tensor),
        Product(rows, run.queries / tensor, run.d_model),
        Product(rows, run.d_model, 2 * run.mlp_dim / tensor),
        Product(rows, run.mlp_dim / tensor, run.d_model),
    ]
    again = {"all": forward, "attention": [], "mlp": [forward[2]]}[run.recomputed]
    ops = []
    for product in forward + again:
        ops.append(_op(product, run.num_layers))
    for product in forward:
        rows_, inner, columns = product.rows, product.inner, product.columns
        ops.append(_op(Product(rows_, columns, inner), run.num_layers))
        ops.append(_op(Product(inner, rows_, columns), run.num_layers))
    ops += _attention(run)
    head = Product(rows, run.d_model, run.vocabulary / tensor)
    ops += [_op(head, 1), _op(Product(rows, head.columns, run.d_model), 1)]
    ops.append(_op(Product(run.d_model, rows, head.columns), 1))
    # Norms, rotations, activations, residual sums: about 24 passes over the stream a layer.
    ops.append(Op((), 24 * 2.0 * rows * run.d_model, run.num_layers, "between the products"))
    states = run.num_weights / run.topology.num_chips
    ops.append(Op((), states * (4 * 7 + 4), 1, "optimizer"))
    return Costs(tuple(ops), tuple(_exchanges(run, rows)))


def _op(product: Product, times: int) -> Op:
    return roofline.op_from_product(dataclasses.replace(product, times=times))


def _attention(run: PublishedRun) -> list[Op]:
    """Scores and sums, forward 2 products, backward 5; half of the pairs, and the diagonal."""
    head_dim = run.head_dim
    heads = run.queries / head_dim * run.batch_per_chip
    rows = run.length
    pairs = 0.5 + 0.5 * min(1.0, 1024 / rows)
    passes = 2 + 5 + 2  # the forward pass is always computed again
    product = Product(rows * pairs, head_dim, rows, heads * passes)
    moved = 12 * 2.0 * run.tokens_per_chip * (run.queries + run.keys)
    return [Op((product,), moved, run.num_layers, "attention")]


def _exchanges(run: PublishedRun, rows: float) -> list[Collective]:
    fsdp = run.topology.num_chips // run.tensor
    layer = run.layer_weights / run.tensor
    gathers = run.num_layers * (3 if run.recomputed == "all" else 2)
    found = [
        Collective("all-gather", 2.0 * layer, fsdp, times=gathers),
        Collective("reduce-scatter", 4.0 * layer, fsdp, times=run.num_layers),
        Collective("all-gather", 2.0 * run.d_model * run.vocabulary / run.tensor, fsdp, times=2),
        Collective("reduce-scatter", 4.0 * run.d_model * run.vocabulary / run.tensor, fsdp),
    ]
    if run.tensor > 1:
        stream = 2.0 * rows * run.d_model
        found.append(Collective("all-reduce", stream, run.tensor, times=4 * run.num_layers))
    return found


def predicted_mfu(run: PublishedRun, factors: Factors = CALIBRATED) -> float:
    """The MFU that the factors give a published run, by the run's own count of FLOPs."""
    found = roofline.predict(costs_of(run), run.topology, factors)
    return run.stated_flops / found.calibrated_s / run.topology.chip.bf16_flops
