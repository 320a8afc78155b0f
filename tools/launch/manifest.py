"""What is launched on Kubernetes, and the manifests that launch it.

`job_set` and `indexed_job` return documents as plain dictionaries; `gke.py` reads the command's
words and prints them.
"""

import dataclasses
import math
import pathlib
import re
from typing import Any, Protocol

# The exit code of a run that was stopped and has saved; the end of a training is 0.
_STOPPED = 75
# That of a mistake in the words or settings, which another start does not mend.
_MISTAKE = 2
_PORT = 8476
_WORKERS = "workers"
_CONTAINER = "poet"
_FLAGS = pathlib.Path(__file__).parent
_CLAIM_FOLDER = "/data"


class Nodes(Protocol):
    """Where a job runs. `TpuSlices` and `GpuNodes` are the two kinds."""

    num_slices: int
    resource: str

    @property
    def nodes_per_slice(self) -> int: ...

    @property
    def chips_per_node(self) -> int: ...

    def selector(self) -> dict[str, str]:
        """Labels of the nodes."""
        ...

    def join_words(self, first_host: str) -> list[str]:
        """Words of `poet train` that join the processes; `first_host` is that of process 0."""
        ...

    def environment(self) -> dict[str, str]:
        """Flags of the compiler and the like."""
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class TpuSlices:
    """Slices of one topology. GKE tells each process who it is, and jax asks for it.

    Attributes:
      accelerator: Label of the nodes, such as tpu-v5p-slice or tpu-v6e-slice.
      topology: Chips along each dimension of a slice, such as 4x4x4.
      num_slices: Slices, joined by the data centre's network.
      most_chips_per_node: 4, or 8 for the single hosts of v5e and v6e that have as many.
    """

    accelerator: str
    topology: str
    num_slices: int = 1
    most_chips_per_node: int = 4
    resource: str = "google.com/tpu"

    def __post_init__(self):
        if not re.fullmatch(r"[1-9]\d*(x[1-9]\d*){1,2}", self.topology):
            raise ValueError(
                f"topology={self.topology!r} must be chips along each dimension of a slice, for"
                " example 4x4 (v5e, v6e) or 4x4x4 (v4, v5p)."
            )
        if self.num_slices < 1 or self.num_chips % self.chips_per_node:
            raise ValueError(
                f"num_slices={self.num_slices} of topology {self.topology} with"
                f" {self.chips_per_node} chips a node cannot be; give at least one slice, and a"
                " topology of whole nodes."
            )

    @property
    def num_chips(self) -> int:
        """Chips of one slice."""
        return math.prod(int(size) for size in self.topology.split("x"))

    @property
    def chips_per_node(self) -> int:
        return min(self.num_chips, self.most_chips_per_node)

    @property
    def nodes_per_slice(self) -> int:
        return self.num_chips // self.chips_per_node

    def selector(self) -> dict[str, str]:
        return {
            "cloud.google.com/gke-tpu-accelerator": self.accelerator,
            "cloud.google.com/gke-tpu-topology": self.topology,
        }

    def join_words(self, first_host: str) -> list[str]:
        return ["--multihost"]

    def environment(self) -> dict[str, str]:
        return {"LIBTPU_INIT_ARGS": read_flags("xla_tpu.txt")}


@dataclasses.dataclass(frozen=True, kw_only=True)
class GpuNodes:
    """Nodes with GPUs, one process a node that drives all of them.

    Attributes:
      accelerator: Label of the nodes, such as nvidia-h200-141gb.
      num_nodes: Nodes.
      chips_per_node: GPUs of a node.
    """

    accelerator: str
    num_nodes: int = 1
    chips_per_node: int = 8
    num_slices: int = 1
    resource: str = "nvidia.com/gpu"

    def __post_init__(self):
        if self.num_nodes < 1 or self.chips_per_node < 1:
            raise ValueError(
                f"num_nodes={self.num_nodes} and chips_per_node={self.chips_per_node} must be at"
                " least 1."
            )

    @property
    def nodes_per_slice(self) -> int:
        return self.num_nodes

    def selector(self) -> dict[str, str]:
        return {"cloud.google.com/gke-accelerator": self.accelerator}

    def join_words(self, first_host: str) -> list[str]:
        # jax could ask Kubernetes, with a package more in the image and the right to read pods.
        return [
            f"--coordinator_address={first_host}:{_PORT}",
            f"--process_count={self.num_nodes}",
            "--process_index=$(JOB_COMPLETION_INDEX)",
        ]

    def environment(self) -> dict[str, str]:
        # The second is of a GPU's memory; jax takes three quarters by itself.
        return {"XLA_FLAGS": read_flags("xla_gpu.txt"), "XLA_PYTHON_CLIENT_MEM_FRACTION": "0.92"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Launch:
    """One training.

    Attributes:
      name: Of the job, its Service and hosts; what a DNS label may be.
      image: Container image with `program` in it.
      model_dir: MODEL_DIR of the run, an object store or a folder below /data (`claim`).
      data_dir: The dataset, likewise.
      words: Of `poet train`, beside those that join the processes.
      nodes: Where it runs.
      program: Command in the image.
      environment: More variables; these win.
      max_restarts: After failures. Preemptions do not count.
      grace_s: Between SIGTERM and SIGKILL; saving has to fit in. Nodes that are taken away may
        give less: Spot nodes of GKE about half a minute.
      stall_minutes: Without a step, after which a host ends itself; None leaves it to the run file.
      is_spot: Whether to run on GKE's Spot nodes.
      claim: Name of a PersistentVolumeClaim to be mounted at /data, or nothing.
    """

    name: str
    image: str
    model_dir: str
    data_dir: str
    words: tuple[str, ...]
    nodes: Nodes
    program: str = "poet"
    environment: dict[str, str] = dataclasses.field(default_factory=dict)
    max_restarts: int = 10
    grace_s: int = 120
    stall_minutes: float | None = None
    is_spot: bool = False
    claim: str = ""

    def __post_init__(self):
        if not re.fullmatch(r"[a-z]([-a-z0-9]{0,38}[a-z0-9])?", self.name):
            raise ValueError(
                f"name={self.name!r} must be up to 40 small letters, digits and -, starting with a"
                " letter and not ending with -: hosts are named after it."
            )
        if not self.words:
            raise ValueError(
                "No words for poet train were given; end the command with -- --gin_file=RUN.gin."
            )
        for name in ("max_restarts", "grace_s", "stall_minutes"):
            if (getattr(self, name) or 0) < 0:
                raise ValueError(f"{name}={getattr(self, name)} must be 0 or more.")


def read_flags(name: str) -> str:
    """Returns the flags of a file beside this one in one line, without its comments."""
    lines = (_FLAGS / name).read_text().splitlines()
    return " ".join(word for line in lines for word in line.partition("#")[0].split())


def job_set(launch: Launch) -> list[dict[str, Any]]:
    """Returns a JobSet with one Job a slice, all started again together when one fails."""
    first_host = f"{launch.name}-{_WORKERS}-0-0.{launch.name}"
    # A host that was lost or stopped, or that found a mistake, fails its job at once, for a reason
    # that JobSet can tell from other failures: only those count.
    rules = _pod_rules(lost="FailJob", stopped="FailJob")
    job = _job_spec(launch, first_host) | {
        "backoffLimit": 0,
        "podFailurePolicy": {"rules": rules},
    }
    metadata: dict[str, Any] = {"name": launch.name}
    if isinstance(launch.nodes, TpuSlices):
        # Each job gets a node pool, which is a slice, for itself.
        metadata["annotations"] = {
            "alpha.jobset.sigs.k8s.io/exclusive-topology": "cloud.google.com/gke-nodepool"
        }
    # The reason of all three is the same. What tells a mistake from the others is the message of
    # Kubernetes, "Container poet for pod ... failed with exit code 2 matching FailJob rule at ...".
    reasons = ["PodFailurePolicy"]
    policy = [
        {
            "name": "mistake",
            "action": "FailJobSet",
            "onJobFailureReasons": reasons,
            "onJobFailureMessagePatterns": [f"exit code {_MISTAKE} matching"],
        },
        {
            "name": "preempted",
            "action": "RestartJobSetAndIgnoreMaxRestarts",
            "onJobFailureReasons": list(reasons),
        },
    ]
    spec = {
        "network": {"enableDNSHostnames": True},
        "failurePolicy": {"maxRestarts": launch.max_restarts, "rules": policy},
        "replicatedJobs": [
            {"name": _WORKERS, "replicas": launch.nodes.num_slices, "template": {"spec": job}}
        ],
    }
    return [
        {
            "apiVersion": "jobset.x-k8s.io/v1alpha2",
            "kind": "JobSet",
            "metadata": metadata,
            "spec": spec,
        }
    ]


def indexed_job(launch: Launch) -> list[dict[str, Any]]:
    """Returns a headless Service and an indexed Job whose hosts find each other through it.

    Raises:
      ValueError: for several slices, which a single Job cannot tell apart.
    """
    if launch.nodes.num_slices > 1:
        raise ValueError(
            f"num_slices={launch.nodes.num_slices} needs a JobSet, one Job has one slice; leave"
            " out --kind job."
        )
    spec = _job_spec(launch, f"{launch.name}-0.{launch.name}")
    spec["template"]["spec"]["subdomain"] = launch.name
    # A host that fails takes the others with it, and each of them counts.
    spec["backoffLimit"] = launch.max_restarts * launch.nodes.nodes_per_slice
    spec["podFailurePolicy"] = {"rules": _pod_rules(lost="Ignore", stopped="Ignore")}
    service = {
        "clusterIP": "None",
        "publishNotReadyAddresses": True,
        "selector": {"job-name": launch.name},
    }
    names = {"name": launch.name}
    return [
        {"apiVersion": "v1", "kind": "Service", "metadata": names, "spec": service},
        {"apiVersion": "batch/v1", "kind": "Job", "metadata": dict(names), "spec": spec},
    ]


def _pod_rules(lost: str, stopped: str) -> list[dict[str, Any]]:
    """Returns the rules of a Job's podFailurePolicy, the first that fits counts."""

    def on_exit_code(action: str, code: int) -> dict[str, Any]:
        codes = {"containerName": _CONTAINER, "operator": "In", "values": [code]}
        return {"action": action, "onExitCodes": codes}

    return [
        # First: the exit code of a host that is taken away says nothing.
        {"action": lost, "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
        on_exit_code(stopped, _STOPPED),
        on_exit_code("FailJob", _MISTAKE),
    ]


def _job_spec(launch: Launch, first_host: str) -> dict[str, Any]:
    """Returns what both kinds share: one slice, one pod a node."""
    num_nodes = launch.nodes.nodes_per_slice
    return {
        "completionMode": "Indexed",
        "completions": num_nodes,
        "parallelism": num_nodes,
        "template": {"spec": _pod_spec(launch, first_host)},
    }


def _bindings(launch: Launch) -> list[str]:
    """Returns what is bound over the run files, and only where it has to be."""
    bindings = []
    if launch.nodes.num_slices > 1:  # The mesh of a TPU asks for it.
        bindings.append(f"--gin.MeshConfig.replica={launch.nodes.num_slices}")
    if launch.stall_minutes is not None:
        bindings.append(f"--gin.LoopConfig.stall_minutes={launch.stall_minutes}")
    return bindings


def _pod_spec(launch: Launch, first_host: str) -> dict[str, Any]:
    nodes = launch.nodes
    chips = {nodes.resource: nodes.chips_per_node}
    environment = {"MODEL_DIR": launch.model_dir, "DATA_DIR": launch.data_dir}
    environment |= nodes.environment() | launch.environment
    container = {
        "name": _CONTAINER,
        "image": launch.image,
        # Not through a shell, which would keep SIGTERM for itself.
        "command": [launch.program, "train"],
        "args": [
            *nodes.join_words(first_host),
            f"--exit_code_when_stopped={_STOPPED}",
            "--gin.MODEL_DIR=$(MODEL_DIR)",
            "--gin.DATA_DIR=$(DATA_DIR)",
            *_bindings(launch),
            *launch.words,
        ],
        "env": [{"name": name, "value": value} for name, value in environment.items()],
        "resources": {
            "requests": {name: str(number) for name, number in chips.items()},
            "limits": {name: str(number) for name, number in chips.items()},
        },
    }
    selector = nodes.selector()
    tolerations = [{"key": nodes.resource, "operator": "Exists", "effect": "NoSchedule"}]
    if launch.is_spot:
        selector["cloud.google.com/gke-spot"] = "true"
        tolerations.append(
            {
                "key": "cloud.google.com/gke-spot",
                "operator": "Equal",
                "value": "true",
                "effect": "NoSchedule",
            }
        )
    pod = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": launch.grace_s,
        "nodeSelector": selector,
        "tolerations": tolerations,
        "containers": [container],
    }
    if launch.claim:
        container["volumeMounts"] = [{"name": "data", "mountPath": _CLAIM_FOLDER}]
        pod["volumes"] = [{"name": "data", "persistentVolumeClaim": {"claimName": launch.claim}}]
    return pod
