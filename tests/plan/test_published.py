"""The factors give published results back."""

import pytest

from poet.plan import published
from poet.plan.published import HELD_OUT, RUNS


def test_the_shapes_are_those_of_the_published_models():
    sizes = {(run.name, run.topology.chip.name): run.num_weights / 1e9 for run in RUNS}
    assert sizes["Llama-3.1-8B", "v6e"] == pytest.approx(8.03 - 0.53, abs=0.01)  # no embedding
    assert sizes["Llama-3.1-70B", "v6e"] == pytest.approx(70.55 - 1.05, abs=0.01)
    assert sizes["16B", "v5e"] == pytest.approx(16, abs=0.5)
    assert sizes["32B", "v5e"] == pytest.approx(32, abs=0.8)


def test_flops_are_counted_as_the_runs_counted_them():
    # 417.397 TFLOP/s a chip in steps of 4.546 s, as the recipe prints them.
    llama = RUNS[0]
    assert llama.stated_flops / 4.546 == pytest.approx(417.4e12, rel=2e-3)
    assert RUNS[1].stated_flops / 42.656 == pytest.approx(462.3e12, rel=2e-3)
    assert HELD_OUT.stated_flops / 6.320 == pytest.approx(432.0e12, rel=2e-3)


@pytest.mark.parametrize("run", RUNS, ids=lambda run: f"{run.name} {run.topology.name}")
def test_each_published_mfu_is_met_within_ten_points(run):
    assert published.predicted_mfu(run) == pytest.approx(run.mfu, abs=0.10)


def test_a_run_that_the_factors_were_not_fitted_to_is_met_too():
    assert published.predicted_mfu(HELD_OUT) == pytest.approx(HELD_OUT.mfu, abs=0.05)


def test_without_factors_the_results_are_not_met():
    # The test above can fail: an optimistic prediction is far from what was measured.
    from poet.plan import roofline

    run = RUNS[0]
    found = roofline.predict(published.costs_of(run), run.topology)
    optimistic = run.stated_flops / found.optimistic_s / run.topology.chip.bf16_flops
    assert optimistic > run.mfu + 0.3
