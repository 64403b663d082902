# Environment variables of this pod; sourced by logins, jobs and Ray.
# shellcheck shell=bash disable=SC1091
[ -f "$HOME/.rainbow/pod.env" ] && . "$HOME/.rainbow/pod.env"
RRAY_CODE="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
export RRAY_CODE
export RRAY_WORKSPACE="${RRAY_WORKSPACE:-/workspace}"
export RRAY_ENV="${RRAY_ENV:-/opt/rainbow_ray/env}"
export RAINBOW_MANIFEST="${RAINBOW_MANIFEST:-$RRAY_WORKSPACE/data/base_manifest_db.parquet}"
export RAINBOW_LOGGING__OUTPUT_DIR="${RAINBOW_LOGGING__OUTPUT_DIR:-$RRAY_WORKSPACE/runs}"
export RAINBOW_DATA__MEDIA_CACHE="${RAINBOW_DATA__MEDIA_CACHE:-$RRAY_WORKSPACE/cache}"
export HF_HOME="${HF_HOME:-$RRAY_WORKSPACE/huggingface}"
export RAY_AUTH_MODE=token
export RAY_AUTH_TOKEN_PATH="${RAY_AUTH_TOKEN_PATH:-$HOME/.rainbow/ray_token}"
export PYTHONPATH="$RRAY_CODE${PYTHONPATH:+:$PYTHONPATH}"
export PATH="$RRAY_ENV/bin:$PATH"
# written by node.py: address of the cluster, and network interface to the other pods
[ -f "$HOME/.rainbow/node.env" ] && . "$HOME/.rainbow/node.env"
true
