#!/usr/bin/env bash
# Create the Python environment of a pod, outside of the volume; update it when the locked versions change.
#
#   bash cluster/pod/setup.sh        on any pod or machine; RRAY_ENV is the folder (default /opt/rainbow_ray/env)
#
# The build of Dockerfile.runpod runs this script, so that pods with this image have the environment already.
set -euo pipefail
if [ -n "${RRAY_TTL_HOURS:-}" ] && ! awk -v hours="$RRAY_TTL_HOURS" 'BEGIN { exit !(hours ~ /^[0-9]+(\.[0-9]+)?$/ && hours > 0) }'; then
  echo "error: RRAY_TTL_HOURS='$RRAY_TTL_HOURS' is not a number of hours such as 8" >&2
  exit 2
fi

CODE="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
ENV="${RRAY_ENV:-/opt/rainbow_ray/env}"
STAMP="$ENV/.rainbow_ray"
REQUIRED="$(cat "$CODE/pyproject.toml" "$CODE/requirements.lock" | sha256sum | cut -d' ' -f1)"

# Print what PyTorch needs of the driver, and fail where there is a GPU that it cannot use: training would take hours on
# the CPU of a rented GPU. The build of an image has no GPU.
check_gpu() {
  (cd "$CODE" && "$ENV/bin/python" - <<'PY'
import glob, sys, torch
cuda = torch.version.cuda
print(f"torch {torch.__version__}", f"needs a driver for CUDA {cuda}" if cuda else "is a build without CUDA")
if glob.glob("/dev/nvidia[0-9]*"):
    from rainbow_ray.distributed.assigned_resources import why_gpu_is_unusable
    reason = why_gpu_is_unusable()
    if reason is not None:
        sys.exit(f"error: this machine has a GPU, but {reason}")
    print("GPUs:", ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())))
PY
  )
}

if [ "$(cat "$STAMP" 2>/dev/null || true)" = "$REQUIRED" ]; then
  echo "environment $ENV is up to date"
  check_gpu
  exit 0
fi

find_python() {
  local candidate
  for candidate in ${RRAY_PYTHON:-} python3.12 python3.13 python3.11 python3; do
    if command -v "$candidate" > /dev/null && "$candidate" -c 'import sys, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2> /dev/null; then
      echo "$candidate"
      return
    fi
  done
}
PYTHON="$(find_python)"
if [ -z "$PYTHON" ] && [ "$(id -u)" = 0 ] && command -v apt-get > /dev/null; then
  # Debian and Ubuntu have a separate package for ensurepip
  { apt-get update -qq && apt-get install -y -qq python3-venv; } > /dev/null 2>&1 || true
  PYTHON="$(find_python)"
fi
if [ -z "$PYTHON" ]; then
  echo "error: no Python 3.11 to 3.13 with ensurepip found; use an image such as runpod/base, or install python3.12-venv" >&2
  exit 1
fi

[ -x "$ENV/bin/python" ] || "$PYTHON" -m venv "$ENV"
# install the dependencies only: the code is imported from its folder, so that `push` updates it in a second
"$ENV/bin/python" - "$CODE/pyproject.toml" > "$ENV/requirements.txt" <<'PY'
import sys, tomllib
with open(sys.argv[1], "rb") as file:
    project = tomllib.load(file)["project"]
extras = project["optional-dependencies"]
# with librosa, so that a run reads on a pod what it reads on a laptop
print("torch", *project["dependencies"], *extras["train"], *extras["descriptors"], sep="\n")
PY
"$ENV/bin/python" -m pip install --quiet --disable-pip-version-check \
  -c "$CODE/requirements.lock" -r "$ENV/requirements.txt"
echo "$REQUIRED" > "$STAMP"
echo "environment $ENV is ready"
check_gpu
