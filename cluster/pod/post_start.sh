#!/usr/bin/env bash
# /post_start.sh of our image: RunPod's /start.sh calls it when ssh is up, on each start of the container.
#
# A pod of `python -m cluster up` has its timer already. One made by hand in the console gets it here, where RRAY_TTL_HOURS
# is among its variables, or where it had one before it was restarted.
export RRAY_WORKSPACE="${RRAY_WORKSPACE:-/workspace}"
mkdir -p "$RRAY_WORKSPACE/data" "$RRAY_WORKSPACE/runs"
[ -n "${RRAY_DEADLINE:-}" ] || bash "${RRAY_IMAGE_CODE:-/opt/rainbow_ray/code}/cluster/pod/deadman.sh" begin "${RRAY_TTL_HOURS:-}"
echo "rainbow_ray: cd ${RRAY_IMAGE_CODE:-/opt/rainbow_ray/code} && bash cluster/pod/train.sh --phase 1"
