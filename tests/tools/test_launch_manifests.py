"""Rendered manifests against the published schemas, and what they say about hosts and restarts."""

import dataclasses
import importlib
import re

import gin
import pytest
import yaml

from tools.launch import gke, manifest

# Kind -> the class that Kubeflow generates from the schema that Kubernetes or JobSet publishes.
SCHEMAS = {
    "Service": "io_k8s_api_core_v1_service.IoK8sApiCoreV1Service",
    "Job": "io_k8s_api_batch_v1_job.IoK8sApiBatchV1Job",
    "JobSet": "jobset_v1alpha2_job_set.JobsetV1alpha2JobSet",
}
TPU = ["--accelerator=tpu-v5p-slice", "--topology=4x4x4"]
GPU = ["--accelerator=nvidia-h200-141gb", "--num_nodes=3"]
REST = [
    "--name=run1",
    "--image=r/poet:1",
    "--model_dir=gs://b/model",
    "--data_dir=gs://b/data",
    "--",
    "--gin_file=gin/runs/tiny.gin",
]


@pytest.fixture
def render(capsys):
    def words_to_documents(*words):
        assert gke.main([*words, *REST]) == 0
        return list(yaml.safe_load_all(capsys.readouterr().out))

    return words_to_documents


def check_schema(document):
    """Fields of a wrong type or missing are refused; unknown ones do not come back."""
    models = pytest.importorskip("kubeflow_trainer_api.models")
    module, name = SCHEMAS[document["kind"]].split(".")
    schema = getattr(importlib.import_module(f"{models.__name__}.{module}"), name)
    assert schema.from_dict(document).to_dict() == document


@pytest.mark.parametrize(
    ("nodes", "kinds"),
    [
        ([*TPU, "--kind=job"], ["Service", "Job"]),
        ([*GPU, "--kind=job"], ["Service", "Job"]),
        ([*TPU, "--num_slices=2", "--spot"], ["JobSet"]),
        (GPU, ["JobSet"]),
    ],
)
def test_manifests_keep_to_the_published_schemas(nodes, kinds, render):
    documents = render(*nodes, "--claim=disk")
    assert [document["kind"] for document in documents] == kinds
    for document in documents:
        check_schema(document)


def test_the_schemas_refuse_what_is_wrong(render):
    pytest.importorskip("kubeflow_trainer_api")
    (document,) = render(*TPU)
    document["spec"]["replicatedJobs"][0]["template"]["spec"]["parallelism"] = "16"
    with pytest.raises(ValueError, match="parallelism"):
        check_schema(document)
    (document,) = render(*TPU)
    document["spec"]["restarts"] = 3
    with pytest.raises(AssertionError):
        check_schema(document)


def pod_of(job):
    return job["spec"]["template"]["spec"]


def container_of(job_set):
    (workers,) = job_set["spec"]["replicatedJobs"]
    return pod_of(workers["template"])["containers"][0]


def environment_of(container):
    return {row["name"]: row["value"] for row in container["env"]}


def test_two_slices_of_64_chips(render):
    (job_set,) = render(*TPU, "--num_slices=2")
    (workers,) = job_set["spec"]["replicatedJobs"]
    assert workers["replicas"] == 2
    # 4 x 4 x 4 chips, 4 a node.
    assert workers["template"]["spec"]["completions"] == 16
    assert workers["template"]["spec"]["parallelism"] == 16
    assert workers["template"]["spec"]["completionMode"] == "Indexed"
    pod = pod_of(workers["template"])
    assert pod["nodeSelector"] == {
        "cloud.google.com/gke-tpu-accelerator": "tpu-v5p-slice",
        "cloud.google.com/gke-tpu-topology": "4x4x4",
    }
    assert pod["restartPolicy"] == "Never" and pod["terminationGracePeriodSeconds"] == 120
    (container,) = pod["containers"]
    assert container["command"] == ["poet", "train"]
    assert container["args"] == [
        "--multihost",
        "--exit_code_when_stopped=75",
        "--gin.MODEL_DIR=$(MODEL_DIR)",
        "--gin.DATA_DIR=$(DATA_DIR)",
        "--gin.MeshConfig.replica=2",
        "--gin_file=gin/runs/tiny.gin",
    ]
    assert container["resources"]["limits"] == {"google.com/tpu": "4"}
    environment = environment_of(container)
    assert environment["MODEL_DIR"] == "gs://b/model"
    assert "--xla_tpu_enable_async_all_to_all=true" in environment["LIBTPU_INIT_ARGS"].split()
    assert "#" not in environment["LIBTPU_INIT_ARGS"]


@pytest.mark.parametrize(
    ("own", "replica"), [([], 2), (["--gin.partitioning.MeshConfig.replica=4"], 4)]
)
def test_slices_lie_along_replica_unless_the_words_say_otherwise(own, replica, render):
    from poet.main import commands
    from poet.train import lm

    (document,) = render(*TPU, "--num_slices=2")
    words = container_of(document)["args"]
    try:
        files, bindings, rest = commands.split_gin([*words, *own])
        commands.read_gin(files, bindings)
        assert commands.call_configured(lm.LMRun).mesh.replica == replica
    finally:
        gin.clear_config()
    assert all("gin" not in word for word in rest)
    for nodes in (TPU, GPU):
        (document,) = render(*nodes)
        assert "replica" not in " ".join(container_of(document)["args"])


def test_the_run_file_says_how_long_a_stall_is(render):
    (document,) = render(*TPU)
    assert "stall_minutes" not in " ".join(container_of(document)["args"])
    (document,) = render(*TPU, "--stall_minutes=90")
    assert "--gin.LoopConfig.stall_minutes=90.0" in container_of(document)["args"]


def test_hosts_with_gpus_find_the_first_one(render):
    service, job = render(*GPU, "--kind=job")
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["selector"] == {"job-name": job["metadata"]["name"]}
    pod = pod_of(job)
    assert pod["subdomain"] == service["metadata"]["name"]
    (container,) = pod["containers"]
    assert container["args"][:3] == [
        "--coordinator_address=run1-0.run1:8476",
        "--process_count=3",
        "--process_index=$(JOB_COMPLETION_INDEX)",
    ]
    assert container["resources"]["requests"] == {"nvidia.com/gpu": "8"}
    assert environment_of(container)["XLA_FLAGS"].startswith("--xla_gpu_")
    (job_set,) = render(*GPU)
    template = job_set["spec"]["replicatedJobs"][0]["template"]
    address = pod_of(template)["containers"][0]["args"][0]
    assert address == "--coordinator_address=run1-workers-0-0.run1:8476"


def test_only_failures_count_as_restarts(render):
    (job_set,) = render(*TPU, "--max_restarts=7")
    policy = job_set["spec"]["failurePolicy"]
    assert policy["maxRestarts"] == 7
    _, rule = policy["rules"]
    assert rule["action"] == "RestartJobSetAndIgnoreMaxRestarts"
    assert rule["onJobFailureReasons"] == ["PodFailurePolicy"]
    job = job_set["spec"]["replicatedJobs"][0]["template"]["spec"]
    assert job["backoffLimit"] == 0
    lost, stopped, _ = job["podFailurePolicy"]["rules"]
    assert stopped["action"] == lost["action"] == "FailJob"
    assert stopped["onExitCodes"]["values"] == [75]
    assert stopped["onExitCodes"]["containerName"] == pod_of({"spec": job})["containers"][0]["name"]
    assert lost["onPodConditions"][0]["type"] == "DisruptionTarget"
    # Of an indexed job each of the 16 hosts counts for itself.
    alone = render(*TPU, "--max_restarts=7", "--kind=job")[1]["spec"]
    assert alone["backoffLimit"] == 7 * 16
    actions = [rule["action"] for rule in alone["podFailurePolicy"]["rules"]]
    assert actions == ["Ignore", "Ignore", "FailJob"]


# What Kubernetes writes into the condition of a Job that its podFailurePolicy ends.
MESSAGES = {
    "Pod d/run1-workers-0-0-ab has condition DisruptionTarget matching FailJob rule at index 0": 1,
    "Container poet for pod d/run1-workers-0-0-ab failed with exit code 75 matching FailJob rule"
    " at index 1": 1,
    "Container poet for pod d/run1-workers-0-2-ab failed with exit code 2 matching FailJob rule"
    " at index 2": 0,
}


def test_a_mistake_ends_the_job_at_once(render):
    (job_set,) = render(*TPU, "--num_slices=2")
    rules = job_set["spec"]["failurePolicy"]["rules"]
    assert rules[0]["action"] == "FailJobSet"
    assert all(rule["onJobFailureReasons"] == ["PodFailurePolicy"] for rule in rules)
    patterns = [rule.get("onJobFailureMessagePatterns", [""]) for rule in rules]
    for message, first in MESSAGES.items():
        fits = [any(re.search(each, message) for each in any_of) for any_of in patterns]
        assert fits.index(True) == first
    alone = render(*TPU, "--kind=job")[1]["spec"]
    for job in (job_set["spec"]["replicatedJobs"][0]["template"]["spec"], alone):
        rule = job["podFailurePolicy"]["rules"][2]
        assert rule["action"] == "FailJob" and rule["onExitCodes"]["values"] == [2]


@pytest.mark.parametrize(
    ("topology", "most", "num_nodes", "chips"),
    [("2x4", 8, 1, 8), ("2x4", 4, 2, 4), ("1x1", 4, 1, 1), ("16x16", 4, 64, 4)],
)
def test_chips_are_spread_over_nodes(topology, most, num_nodes, chips):
    nodes = manifest.TpuSlices(
        accelerator="tpu-v6e-slice", topology=topology, most_chips_per_node=most
    )
    assert (nodes.nodes_per_slice, nodes.chips_per_node) == (num_nodes, chips)


def test_a_variable_of_your_own_wins_and_spot_nodes_are_asked_for(render):
    (job_set,) = render(*TPU, "--env=LIBTPU_INIT_ARGS=--a=1 --b=2", "--spot", "--claim=disk")
    pod = pod_of(job_set["spec"]["replicatedJobs"][0]["template"])
    assert environment_of(pod["containers"][0])["LIBTPU_INIT_ARGS"] == "--a=1 --b=2"
    assert pod["nodeSelector"]["cloud.google.com/gke-spot"] == "true"
    assert pod["containers"][0]["volumeMounts"][0]["name"] == pod["volumes"][0]["name"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--accelerator=tpu-v5p-slice"], "a TPU is given by --topology"),
        ([*GPU, "--topology=2x2"], "GPUs by --num_nodes"),
        ([*GPU, "--num_slices=2"], "num_slices=2 is for TPUs"),
        (["--accelerator=tpu-v5p-slice", "--topology=4*4"], "topology='4*4' must be"),
        (["--accelerator=tpu-v5p-slice", "--topology=3x3"], "a topology of whole nodes"),
        ([*TPU, "--num_slices=0"], "at least one slice"),
        ([*TPU, "--num_slices=2", "--kind=job"], "needs a JobSet"),
        ([*TPU, "--name=Run_1"], "small letters"),
        ([*TPU, "--grace_s=-1"], "grace_s=-1 must be 0 or more"),
        ([*TPU, "--stall_minutes=-1"], "stall_minutes=-1.0 must be 0 or more"),
        ([*TPU, "--env=FLAGS"], "must be NAME=VALUE"),
        (["--accelerator=nvidia-l4", "--num_nodes=0"], "at least 1"),
    ],
)
def test_what_cannot_be_is_one_sentence(words, says, capsys):
    # The last of two names counts.
    assert gke.main([REST[0], *words, *REST[1:]]) == 2
    said = capsys.readouterr().err
    assert says in said and said.count("\n") == 1


def test_a_training_without_words_is_refused():
    _, launch = gke.read_arguments([*TPU, *REST])
    with pytest.raises(ValueError, match="No words for poet train"):
        dataclasses.replace(launch, words=())
