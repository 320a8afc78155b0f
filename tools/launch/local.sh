#!/usr/bin/env bash
# Runs poet as several joined processes on this machine: a trial of what a cluster would do.
#
#   tools/launch/local.sh 2 train --gin_file=gin/runs/tiny.gin \
#       --gin.MODEL_DIR=out/model --gin.DATA_DIR=out/demo/dataset
#
# The first word is the number of processes, the rest are those of `poet`. Each process writes
# LOG_DIR/process_N.log. If one fails the others are stopped, and its exit code is that of this
# script. SIGTERM and Ctrl-C are passed on as SIGTERM, which saves; whoever has not ended GRACE_S
# later is killed. One process drives all devices of a machine well enough: several are for trying.
#
#   POET=.venv/bin/poet   what is run        LOG_DIR=out/logs   where the logs go
#   PORT=...              of process 0       GRACE_S=120        between SIGTERM and SIGKILL
#   GPUS_EACH=1           process 0 takes the first so many GPUs, process 1 the next, and so on
#   JAX_NUM_CPU_DEVICES=2 (read by jax) virtual devices of each process on a CPU
set -euo pipefail

POET=${POET:-.venv/bin/poet}
LOG_DIR=${LOG_DIR:-out/logs}
GRACE_S=${GRACE_S:-120}
POLL_S=${POLL_S:-0.2}

say() { echo "local: $*" >&2; }

pids=()
code=0
kill_at=

start_all() {
  local count=$1 index first
  shift
  mkdir -p "$LOG_DIR"
  for ((index = 0; index < count; index++)); do
    (
      if [ -n "${GPUS_EACH:-}" ]; then
        first=$((index * GPUS_EACH))
        JAX_LOCAL_DEVICE_IDS=$(seq -s, "$first" $((first + GPUS_EACH - 1)))
        export JAX_LOCAL_DEVICE_IDS
      fi
      exec "$POET" "$@" --coordinator_address="localhost:$PORT" \
        --process_count="$count" --process_index="$index"
    ) >"$LOG_DIR/process_$index.log" 2>&1 &
    pids+=($!)
  done
  [ -z "$kill_at" ] || send TERM # It came while they were being started.
}

# Passes SIGTERM on, once; `watch` sends SIGKILL when the time is over.
stop() {
  [ -z "$kill_at" ] || return 0
  kill_at=$((SECONDS + GRACE_S))
  send TERM
}

send() {
  local pid
  for pid in "${pids[@]}"; do
    [ -z "$pid" ] || kill "-$1" "$pid" 2>/dev/null || true
  done
}

# Looks at the processes until all have ended. (`wait -n` would be shorter; older bash lacks it.)
watch() {
  local index status num_running
  while true; do
    num_running=0
    for index in "${!pids[@]}"; do
      [ -n "${pids[index]}" ] || continue
      if kill -0 "${pids[index]}" 2>/dev/null; then
        num_running=$((num_running + 1))
        continue
      fi
      status=0
      wait "${pids[index]}" || status=$?
      pids[index]=
      if [ "$status" != 0 ] && [ "$code" = 0 ]; then
        code=$status
        say "process $index ended with code $code; the end of $LOG_DIR/process_$index.log:"
        tail -n 5 "$LOG_DIR/process_$index.log" >&2
        stop
      fi
    done
    [ "$num_running" != 0 ] || return 0
    if [ -n "$kill_at" ] && [ "$SECONDS" -ge "$kill_at" ]; then
      say "$num_running did not end within $GRACE_S s and are killed"
      send KILL
    fi
    # Ctrl-C and some schedulers signal the whole group, and so end this sleep as well.
    sleep "$POLL_S" || true
  done
}

free_port() {
  local port
  while true; do
    port=$((20000 + RANDOM % 20000))
    (exec 3<>"/dev/tcp/localhost/$port") 2>/dev/null || break
  done
  echo "$port"
}

case ${1:-} in
"" | *[!0-9]* | 0)
  say "expected the number of processes and the words of poet, got '$*'; for example:" \
    "tools/launch/local.sh 2 train --gin_file=gin/runs/tiny.gin"
  exit 2
  ;;
esac
PORT=${PORT:-$(free_port)}
trap stop TERM INT
start_all "$@"
say "$1 processes run; their logs: $LOG_DIR/process_0.log and on"
watch
exit "$code"
