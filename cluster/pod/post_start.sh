#!/usr/bin/env bash
# /post_start.sh of the image of Dockerfile.runpod: RunPod's /start.sh calls it after each start of sshd.
#
# A pod of `python -m cluster up` has its timer already. For a pod created in the console, this script starts the timer if
# RRAY_TTL_HOURS is set, or if the pod had a timer before a restart.
export RRAY_WORKSPACE="${RRAY_WORKSPACE:-/workspace}"
mkdir -p "$RRAY_WORKSPACE/data" "$RRAY_WORKSPACE/runs"
[ -n "${RRAY_DEADLINE:-}" ] || bash "${RRAY_IMAGE_CODE:-/opt/rainbow_ray/code}/cluster/pod/deadman.sh" begin "${RRAY_TTL_HOURS:-}"
echo "rainbow_ray: cd ${RRAY_IMAGE_CODE:-/opt/rainbow_ray/code} && bash cluster/pod/train.sh --phase 1"
