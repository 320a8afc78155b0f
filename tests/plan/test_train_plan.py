"""A training run without a dataset: its groups, and a step compiled for the devices here."""

import dataclasses
import json

import gin
import pytest
import tiny_lm

from poet.data.groups import Curriculum
from poet.main import commands
from poet.models.config import PrefixLMConfig
from poet.plan import devices, hlo, measure, planning, report, train_step
from poet.plan.chips import CHIPS, parse_topology
from poet.plan.costs import Op
from poet.plan.exchanges import Collective
from poet.plan.measure import Compiler, Result
from poet.plan.memory import Setting
from poet.plan.products import Product
from poet.plan.roofline import CALIBRATED
from poet.plan.sizes import TokenSizes
from poet.tokenizers.text import ByteTokenizer
from poet.train import partitioning
from poet.train.lm import LMRun
from poet.train.loop import LoopConfig
from poet.train.lora import LoraConfig
from poet.train.partitioning import MeshConfig

TOKENS = TokenSizes(num_visual=1024, audio_levels=(16, 16), height_px=16, width_px=16)
TEXT = ByteTokenizer(16)
SIZES = TOKENS.sequence_sizes(16, TEXT.num_ids)


def run_of(**changes):
    settings = {
        "data_dir": "nowhere",
        "mixture_or_task_name": "poet_demo",
        "model": tiny_lm.TRAINED,
        "loop": LoopConfig(model_dir="nowhere", num_steps=100),
        "batch_tokens": 2048,
        "text_tokenizer": TEXT,
    }
    return LMRun(**(settings | changes))


def test_groups_are_those_of_training_and_their_shares_add_up():
    groups, shares, left_out = train_step.groups_of(run_of(), SIZES, ways=4)
    assert sum(shares.values()) == pytest.approx(1) and not left_out
    assert shares["poet_text_to_video"] == pytest.approx(1 / 6)
    for group in groups.values():
        assert group.batch_size % 4 == 0
        assert abs(group.batch_size * group.plan.length - 2048) <= 2 * group.plan.length


def test_a_curriculum_is_averaged_over_the_run():
    curriculum = Curriculum(num_steps=100)
    _, shares, _ = train_step.groups_of(run_of(curriculum=curriculum), SIZES, ways=1)
    # Images: 0.9 for a quarter of the steps, 0.1 after it.
    assert shares["poet_text_to_image"] == pytest.approx(0.25 * 0.9 + 0.75 * 0.1)


def test_tasks_that_do_not_fit_are_refused_or_left_out():
    short = dataclasses.replace(TOKENS, num_frames=5).sequence_sizes(16, TEXT.num_ids)
    with pytest.raises(ValueError, match="use a longer clip"):
        train_step.groups_of(run_of(), short, 1)
    run = run_of(on_unserved_task="leave_out")
    _, shares, left_out = train_step.groups_of(run, short, 1)
    assert list(left_out) == ["poet_future_prediction"] and len(shares) == 5


@pytest.fixture(scope="module")
def compiled():
    """(result of one group on the test's four devices, its program's text, state's shapes)."""
    run = run_of(
        model=dataclasses.replace(tiny_lm.TRAINED, d_model=64, head_dim=32),
        mesh=MeshConfig(fsdp=2, tensor=2),
        mixture_or_task_name="poet_unconditional",
    )
    topology = devices.find("here")
    mesh = partitioning.make_mesh(run.mesh, devices.devices_of(topology))
    plan = train_step.plan_training(run, SIZES, topology, mesh)
    kept = {}

    def keeping(program):
        return dataclasses.replace(
            program, compile=lambda: kept.setdefault(program.name, program.compile())
        )

    (part,) = plan.parts
    part = dataclasses.replace(part, programs=tuple(map(keeping, part.programs)))
    row = Compiler(topology).measure(part, CALIBRATED)
    result = Result(topology=topology, facts=plan.facts, rows=(row,), replicated=plan.replicated)
    gradients = kept["gradients/poet_unconditional"]
    return result, hlo.parse(getattr(gradients, "func", gradients).as_text())


def test_a_step_is_compiled_and_judged(compiled):
    result, _ = compiled
    (row,) = result.rows
    # Recomputation and hidden pairs of attention: more is done than the model needs.
    model = row.part.model_flops / result.topology.num_chips
    assert 0.8 * model < row.costs.flops < 3 * model
    assert row.memory.total > row.memory.resident > 0
    assert row.prediction.calibrated_s > row.prediction.optimistic_s > 0
    assert {"all-gather", "all-reduce"} & {one.kind for one in row.costs.collectives}
    mean = result.average()
    assert 0 < mean["calibrated_mfu"] < mean["optimistic_mfu"] <= 1


def test_the_settings_stand_beside_the_numbers(compiled):
    result, _ = compiled
    text = report.to_markdown([result])
    for words in ("optimizer adamw", "remat policy none", "batch tokens 2,048", "fsdp=2 tensor=2"):
        assert words in text
    (found,) = json.loads(report.dumps([result]))
    assert found["settings"]["optimizer"] == "adamw" and found["fits"]
    assert found["groups"][0]["collectives"]
    assert report.summary([result]).splitlines()[2].startswith("| here | 4 |")


def test_a_kernel_that_is_not_known_is_named(compiled):
    result, _ = compiled
    (row,) = result.rows
    assert row.costs.unknown == () and "Kernels" not in report.to_markdown([result])
    strange = dataclasses.replace(row, costs=dataclasses.replace(row.costs, unknown=("b", "a")))
    text = report.to_markdown([dataclasses.replace(result, rows=(strange,))])
    assert "Kernels whose products are not known and not counted: a, b." in text


def test_products_of_8_bits_are_said_to_be_timed_at_the_peak_of_bf16(compiled):
    result, _ = compiled
    (row,) = result.rows
    assert "matmuls plain" in report.to_markdown([result])
    assert "8 bits" not in report.to_markdown([result])
    product = Product(1e4, 1e4, 1e4, is_eight_bit=True)
    ops = (*row.costs.ops, Op((product,), 0.0, times=2.0))
    row = dataclasses.replace(row, costs=dataclasses.replace(row.costs, ops=ops))
    text = report.to_markdown([dataclasses.replace(result, rows=(row,))])
    assert "Of poet_unconditional, 4.00 of 4.0" in text and "at the peak of bf16" in text


@pytest.mark.parametrize(
    ("name", "kind", "group", "words"),
    [
        (
            "v5p:4x4x4",
            "all-reduce",
            64,
            ["summed over more than 32 chips", "replica = 2"],
        ),
        ("v5p:4x4x4", "all-reduce", 16, []),
        ("v5p:8x8x4", "all-reduce", 64, ["Try mesh replica = 8, which"]),
        ("v6e:16x16", "all-reduce", 256, ["Try mesh replica = 2, which"]),
        ("v5p:4x4x4", "reduce-scatter", 64, []),
        ("v5e:16x16@2", "all-reduce", 256, ["Try mesh replica = 8, which"]),
        ("v5p:4x4x4@2", "reduce-scatter", 64, ["without the closed rings"]),
        ("v5p:2x4x4@2", "reduce-scatter", 64, []),
    ],
)
def test_exchanges_over_large_groups_are_remarked_on(compiled, name, kind, group, words):
    result, _ = compiled
    (row,) = result.rows
    exchanges = (Collective(kind, 1e9, group, times=3.0), Collective("all-gather", 1e9, 64))
    row = dataclasses.replace(row, costs=dataclasses.replace(row.costs, collectives=exchanges))
    result = dataclasses.replace(result, topology=parse_topology(name))
    notes = report._notes(result, row)
    assert len(notes) == bool(words) and all(word in " ".join(notes) for word in words)
    # A mesh that has the copies, or decoding, which has no gradients, is not told to take them.
    for more in ({"mesh": {"replica": 16}}, {"step": "decode poet_text_to_video"}):
        told = report._notes(dataclasses.replace(result, facts=result.facts | more), row)
        assert not any("replica" in note for note in told)


def test_adapters_keep_the_base_beside_their_own_state():
    whole = run_of(mesh=MeshConfig(fsdp=2, tensor=2), mixture_or_task_name="poet_unconditional")
    run = dataclasses.replace(whole, adapters=LoraConfig(rank=2), init_from="a_model")
    topology = devices.find("here")
    mesh = partitioning.make_mesh(run.mesh, devices.devices_of(topology))
    plans = [train_step.plan_training(each, SIZES, topology, mesh) for each in (whole, run)]
    facts, adapted = (plan.facts for plan in plans)
    assert adapted["parameters"] == facts["parameters"]
    small = adapted["parameters_of_adapters"]
    assert 0 < small < 0.1 * facts["parameters"] and "parameters_of_adapters" not in facts
    # No moments are kept of the base: a third of the state stays.
    assert adapted["state_bytes_per_chip"] < 0.45 * facts["state_bytes_per_chip"]
    assert adapted["gradient_bytes_per_chip"] < 0.1 * facts["gradient_bytes_per_chip"]
    # What is adapted has gradients of its inputs only.
    assert plans[1].parts[0].model_flops < 0.7 * plans[0].parts[0].model_flops
    # The programs are those of a run of adapters: the base is an argument, beside four others.
    compiled = plans[1].parts[0].programs[0].compile()
    base, *_ = compiled.func.args_info[0]
    assert set(base) >= {"layers", "embed"}


def test_a_head_by_tiles_is_planned_as_its_file_sets_it():
    """Also after a file that set something else of the tiles, which the other one does not undo."""

    def model_of(*names):
        gin.clear_config()
        commands.read_gin([f"gin/models/{name}.gin" for name in ("tiny", *names)], [])
        model = gin.get_configurable(PrefixLMConfig)()
        gin.clear_config()
        return model

    for before in ((), ("large_tiles",)):
        run = run_of(model=model_of(*before), text_tokenizer=None)
        setting = Setting(
            batch_tokens=run.batch_tokens,
            remat_policy=run.model.remat_policy,
            tensor=1,
            topology=parse_topology("v5e:4x4"),
            head_by_tiles=True,
        )
        want = model_of(*before, "head_by_tiles").tiles
        assert want.gathers_by_tile and train_step.with_setting(run, setting).model.tiles == want


@pytest.mark.parametrize(
    ("fsdp", "tensor", "adapters", "bytes_a_number"),
    [(4, 1, None, 4 + 4 + 4), (2, 2, None, 6), (2, 1, LoraConfig(rank=2), 4), (1, 4, None, 0)],
)
def test_the_whole_head_is_known_before_compiling(fsdp, tensor, adapters, bytes_a_number):
    mesh_config = MeshConfig(fsdp=fsdp, tensor=tensor, num_devices=fsdp * tensor)
    run = run_of(mesh=mesh_config, mixture_or_task_name="poet_unconditional")
    if adapters:
        run = dataclasses.replace(run, adapters=adapters, init_from="a_model")
    topology = devices.find("here")
    mesh = partitioning.make_mesh(run.mesh, devices.devices_of(topology))
    plan = train_step.plan_training(run, SIZES, topology, mesh)
    numbers = SIZES.vocabulary.size * run.model.d_model
    assert plan.setting.whole_head_bytes == bytes_a_number * numbers
    assert not plan.setting.head_by_tiles


def test_no_large_array_is_on_every_chip(compiled):
    # Every argument of 16 KiB or more is split, the visual table over both axes.
    _, module = compiled
    entry = module.computations[module.entry]
    arguments = [entry.shape_of(name) for name in entry.parameters]
    assert max(shape.num_bytes for shape in arguments) == 4 * (1024 / 2) * (64 / 2)


def test_groups_that_were_not_compiled_are_scaled_by_their_flops(compiled):
    result, _ = compiled
    (row,) = result.rows
    other = dataclasses.replace(row.part, name="other", model_flops=2 * row.part.model_flops)
    scaled = measure.scaled(other, [row])
    assert scaled.costs is None and scaled.memory is None
    assert scaled.prediction.calibrated_s == 2 * row.prediction.calibrated_s
    both = dataclasses.replace(result, rows=(row, scaled))
    assert both.average()["calibrated_mfu"] == pytest.approx(result.average()["calibrated_mfu"])
    assert "other (not compiled)" in report.to_markdown([both])


def test_a_chip_that_is_too_small_is_refused_with_what_would_fit(compiled):
    result, _ = compiled
    small = dataclasses.replace(CHIPS["cpu"], hbm_bytes=result.memory.total / 2)
    topology = dataclasses.replace(result.topology, chip=small)
    tight = dataclasses.replace(result, topology=topology)
    assert not tight.fits
    refused = planning.or_refusal(topology, lambda: tight)
    assert refused.refusal.startswith("The step does not fit: it needs")
    whole = planning.or_refusal(result.topology, lambda: result)
    assert planning.exit_code([refused, whole]) == 1 and planning.exit_code([whole]) == 0


def test_a_search_in_vain_names_what_came_nearest(compiled, monkeypatch):
    result, _ = compiled
    small = dataclasses.replace(CHIPS["cpu"], hbm_bytes=result.memory.total / 1.1)
    topology = dataclasses.replace(result.topology, chip=small)
    tight = dataclasses.replace(result, topology=topology)
    own = planning.grid(run_of(), topology)[0]
    plan = train_step.TrainPlan(
        parts=(), facts={}, replicated={}, left_out={}, setting=own, num_heads=1, smallest=1
    )

    def train(run, sizes, topology, effort, say):
        if run.mesh.tensor == 4:
            raise ValueError("no such mesh")
        if run.batch_tokens > 2048:
            raise planning._Refused(plan, 9.0 * 2**30)
        return None, tight

    monkeypatch.setattr(planning, "_train", train)
    outcome, tried = planning.search(run_of(), SIZES, topology, lambda text: None)
    assert not outcome.fits and {one.setting.tensor for one in tried} == {1}
    assert "that was tried fits; the nearest, BATCH_TOKENS = " in outcome.refusal
    smallest = min(one.needed for one in tried)
    assert f"needs {smallest / 2**30:.1f} GiB a chip" in outcome.refusal
    # Where no setting can be planned, that is not a question of memory.
    monkeypatch.setattr(planning, "_train", lambda *args: (_ for _ in ()).throw(ValueError("none")))
    with pytest.raises(ValueError, match="none"):
        planning.search(run_of(), SIZES, topology, lambda text: None)


def test_a_refusal_for_several_slices_names_the_copies_that_were_taken(monkeypatch):
    topology = parse_topology("v5e:2x2@2")
    own = planning.grid(run_of(), topology)[0]
    plan = train_step.TrainPlan(
        parts=(), facts={}, replicated={}, left_out={}, setting=own, num_heads=1, smallest=1
    )

    def train(run, sizes, topology, effort, say):
        raise planning._Refused(plan, None)

    monkeypatch.setattr(planning, "_train", train)
    effort = planning.Effort(proposals=False)
    outcome = planning.plan_train(run_of(), SIZES, topology, effort, lambda text: None)
    assert not outcome.is_wrong and outcome.refusal.endswith("MeshConfig.replica=2.")
    outcome, _ = planning.search(run_of(), SIZES, topology, lambda text: None)
    assert outcome.refusal.endswith("MeshConfig.replica=2.")
    asked = run_of(mesh=MeshConfig(replica=2))
    outcome = planning.plan_train(asked, SIZES, topology, effort, lambda text: None)
    assert "replica" not in outcome.refusal


def test_the_grid_has_each_setting_once_and_the_own_first():
    run = run_of()
    found = planning.grid(run, devices.find("here"))
    assert found[0].remat_policy == run.model.remat_policy and len(found) == len(set(found)) == 13
    other = train_step.with_setting(run, found[1])
    assert other.batch_tokens == 1024 and other.model.remat_policy == "dots_no_batch"
    assert isinstance(other.model, PrefixLMConfig)
    # On TPU copies of the state are tried too, with one way of `tensor`.
    found = planning.grid(run, parse_topology("v5p:8x8x4@2"))
    copies = [setting for setting in found if setting.replica == 16]
    assert len(found) == 19 and len(copies) == 6
    assert {setting.tensor for setting in copies} == {1}
    assert train_step.with_setting(run, copies[0]).mesh.replica == 16
    assert "mesh replica = 16 (was 2)" in copies[0].words(found[0])
