"""Prints the Kubernetes manifest that trains on TPU slices or GPU nodes.

    .venv/bin/python tools/launch/gke.py --name run1 --image REGISTRY/poet:1 \
        --accelerator tpu-v5p-slice --topology 4x4x4 --num_slices 2 \
        --model_dir gs://bucket/run1 --data_dir gs://bucket/dataset \
        -- --gin_file=RUN.gin --gin_file=gin/models/8b.gin > run1.yaml
    kubectl apply -f run1.yaml

The words after -- are those of `poet train`. Several slices lie along the mesh's axis `replica`,
unless the words bind `MeshConfig.replica` themselves. A JobSet (jobset.sigs.k8s.io 0.10 or
later must be installed) starts all hosts again together when one is lost. `--kind job` needs
nothing installed: an indexed Job of one slice and a headless Service, whose hosts start again one
by one. GPU nodes: `--accelerator nvidia-h200-141gb --num_nodes 4`. Nothing is applied; kubectl does
that.
"""

import argparse
import re
import sys

import yaml

from tools.launch.manifest import GpuNodes, Launch, Nodes, TpuSlices, indexed_job, job_set


def read_arguments(argv: list[str]) -> tuple[str, Launch]:
    """Returns the kind of the manifest and what it launches.

    Raises:
      ValueError: for values that cannot be.
    """
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--kind", choices=("jobset", "job"), default="jobset")
    add("--name", required=True)
    add("--image", required=True, help="with poet in it")
    add("--accelerator", required=True, help="tpu-v5p-slice, nvidia-h200-141gb, ...")
    add("--topology", help="of a TPU slice, such as 4x4x4")
    add("--num_slices", type=int, default=1, help="of a TPU")
    add("--num_nodes", type=int, default=1, help="with GPUs")
    add("--chips_per_node", type=int, help="4 TPU chips or 8 GPUs unless told")
    add("--model_dir", required=True, help="MODEL_DIR: gs://..., or below /data with --claim")
    add("--data_dir", required=True, help="the dataset, likewise")
    add("--claim", default="", help="PersistentVolumeClaim to be mounted at /data")
    add("--spot", action="store_true", help="Spot nodes of GKE")
    add("--max_restarts", type=int, default=10, help="preemptions do not count")
    add("--grace_s", type=int, default=120, help="between SIGTERM and SIGKILL")
    add("--stall_minutes", type=float, help="without a step, instead of what the run file says")
    add("--program", default="poet", help="in the image")
    add("--env", action="append", default=[], metavar="NAME=VALUE", help="may be repeated")
    add("words", nargs="*", help="of poet train, after --")
    flags = parser.parse_args(argv)
    for word in flags.env:
        if not re.match(r"[A-Za-z_]\w*=", word):
            raise ValueError(f"--env {word!r} must be NAME=VALUE.")
    launch = Launch(
        name=flags.name,
        image=flags.image,
        model_dir=flags.model_dir,
        data_dir=flags.data_dir,
        words=tuple(flags.words),
        nodes=_nodes(flags),
        program=flags.program,
        environment=dict(word.split("=", 1) for word in flags.env),
        max_restarts=flags.max_restarts,
        grace_s=flags.grace_s,
        stall_minutes=flags.stall_minutes,
        is_spot=flags.spot,
        claim=flags.claim,
    )
    return flags.kind, launch


def _nodes(flags: argparse.Namespace) -> Nodes:
    is_tpu = flags.accelerator.startswith("tpu")
    if is_tpu != bool(flags.topology) or (is_tpu and flags.num_nodes != 1):
        raise ValueError(
            f"accelerator={flags.accelerator} came with topology={flags.topology} and"
            f" num_nodes={flags.num_nodes}: a TPU is given by --topology and --num_slices, GPUs by"
            " --num_nodes."
        )
    if is_tpu:
        return TpuSlices(
            accelerator=flags.accelerator,
            topology=flags.topology,
            num_slices=flags.num_slices,
            most_chips_per_node=flags.chips_per_node or 4,
        )
    if flags.num_slices != 1:
        raise ValueError(f"num_slices={flags.num_slices} is for TPUs; give --num_nodes for GPUs.")
    return GpuNodes(
        accelerator=flags.accelerator,
        num_nodes=flags.num_nodes,
        chips_per_node=flags.chips_per_node or 8,
    )


def main(argv: list[str] | None = None) -> int:
    """Prints the manifest; exit code 2 and one sentence for values that cannot be."""
    try:
        kind, launch = read_arguments(sys.argv[1:] if argv is None else argv)
        documents = job_set(launch) if kind == "jobset" else indexed_job(launch)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(yaml.safe_dump_all(documents, sort_keys=False, width=100), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
