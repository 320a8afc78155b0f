#!/usr/bin/env bash
# Prints the xpk command that trains on TPU slices of a GKE cluster; with --run first, runs it.
#
#   CLUSTER=my-cluster TPU_TYPE=v5p-128 NUM_SLICES=2 NAME=run1 IMAGE=REGISTRY/poet:1 \
#   MODEL_DIR=gs://bucket/run1 DATA_DIR=gs://bucket/dataset \
#       tools/launch/xpk.sh [--run] --gin_file=RUN.gin --gin_file=gin/models/8b.gin
#
# The words after the script are those of `poet train`. Several slices lie along the mesh's axis
# `replica`, unless the words bind MeshConfig.replica themselves. xpk (1.16) writes the JobSet;
# without xpk tools/launch/gke.py does.
#
#   MAX_RESTARTS=50   of the whole job; preemptions count   POET=poet          in the image
#   GRACE_S=120       between SIGTERM and SIGKILL           STALL_MINUTES=30   without a step,
#                                                           instead of what the run file says
#   LIBTPU_INIT_ARGS  instead of tools/launch/xla_tpu.txt   XPK_ARGS="--zone=Z --project=P --spot"
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)

for variable in CLUSTER TPU_TYPE NAME IMAGE MODEL_DIR DATA_DIR; do
  if [ -z "${!variable:-}" ]; then
    echo "xpk: expected $variable in the environment; the first lines of $0 show all of them." >&2
    exit 2
  fi
done
is_run=
if [ "${1:-}" = --run ]; then
  is_run=yes
  shift
fi

# `exec`, so that the SIGTERM which xpk's own shell passes on reaches poet.
words=(exec "${POET:-poet}" train --multihost --exit_code_when_stopped=75
  --gin.MODEL_DIR="$MODEL_DIR" --gin.DATA_DIR="$DATA_DIR"
  ${STALL_MINUTES:+"--gin.LoopConfig.stall_minutes=$STALL_MINUTES"})
if [ "${NUM_SLICES:-1}" != 1 ]; then
  words+=(--gin.MeshConfig.replica="$NUM_SLICES")
fi
words+=("$@")
flags=${LIBTPU_INIT_ARGS:-$(sed 's/#.*//' "$here/xla_tpu.txt" | xargs)}

# xpk starts again after 42 and 127 to 255, and after these: 1 no step for too long, a host that came
# too late or a bug, 75 stopped and saved. Not after 2, a mistake in the words or settings.
# shellcheck disable=SC2206 # XPK_ARGS is split into words on purpose.
command=(xpk workload create --cluster="$CLUSTER" --workload="$NAME" --tpu-type="$TPU_TYPE"
  --num-slices="${NUM_SLICES:-1}" --docker-image="$IMAGE" --max-restarts="${MAX_RESTARTS:-50}"
  "--restart-on-exit-codes=1,75" --termination-grace-period-seconds="${GRACE_S:-120}"
  --env="LIBTPU_INIT_ARGS=$flags" --command="$(printf '%q ' "${words[@]}")" ${XPK_ARGS:-})

if [ -n "$is_run" ]; then
  exec "${command[@]}"
fi
printf '%q ' "${command[@]}"
echo
