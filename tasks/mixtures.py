"""Mixtures of the registered tasks. The paper publishes no weights per task: ours are uniform."""

from tasks import paper, registry

PRETRAIN = registry.register_mixture("poet_pretrain", {name: 1.0 for name in paper.NAMES})
