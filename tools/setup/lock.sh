#!/usr/bin/env bash
# Rewrites the lock files from requirements/*.in; versions already locked stay unless UPGRADE=1.
#
#   make lock
#
# py3XX.txt holds everything; py3XX-reduced.txt is what `make setup` falls back to when SeqIO,
# TensorFlow or Beam cannot be installed. Nothing about the package registry is written.
set -euo pipefail
cd "$(dirname "$0")/../../requirements"
export UV_CUSTOM_COMPILE_COMMAND="make lock"

for minor in 11 12 13; do
  for kind in default reduced; do
    suffix=""
    [ "$kind" = reduced ] && suffix="-reduced"
    uv pip compile --quiet --no-emit-index-url --no-emit-find-links --no-annotate --no-header \
      ${UPGRADE:+--upgrade} --python-version "3.$minor" "$kind.in" -o "py3$minor$suffix.txt"
  done
done
