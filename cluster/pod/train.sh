#!/usr/bin/env bash
# Train on a pod created in the console, or on any machine with a GPU, from a clone of the repository:
#
#   bash cluster/pod/setup.sh && bash cluster/pod/train.sh                      phase 1 on the table in /workspace/data
#   bash cluster/pod/train.sh --phase 3 --folds 5                                other flags of rainbow_ray.train
#   bash cluster/pod/train.sh tune --phase 1 --trials 30                         a sweep
#
# It starts the timer that terminates the pod after RRAY_TTL_HOURS (8), creates a token, starts Ray on this machine and
# runs the command. The Ray dashboard is on 127.0.0.1:8265 (`ssh -L 8265:127.0.0.1:8265 …`), its token in
# ~/.rainbow/ray_token.
set -euo pipefail
POD="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
# shellcheck source=/dev/null
. "$POD/env.sh"
if [ ! -x "$RRAY_ENV/bin/python" ]; then
  echo "error: no environment in $RRAY_ENV; run bash cluster/pod/setup.sh" >&2
  exit 2
fi
# a session in the web terminal would count as idle, so only the deadline terminates the pod unless RRAY_IDLE is set (seconds)
export RRAY_IDLE="${RRAY_IDLE:-inf}"
bash "$POD/deadman.sh" begin "${RRAY_TTL_HOURS:-8}"
umask 077
mkdir -p "$HOME/.rainbow"
[ -s "$RAY_AUTH_TOKEN_PATH" ] || python -c 'import secrets; print(secrets.token_hex(32), end="")' > "$RAY_AUTH_TOKEN_PATH"
cd "$RRAY_CODE"
python -m cluster.pod.node start head
# shellcheck source=/dev/null
. "$POD/env.sh" # the address that node.py wrote
entry_point=train
case "${1:-}" in train | tune | check) entry_point="$1"; shift ;; esac
[ "$#" -gt 0 ] || set -- --phase 1
exec python -m "rainbow_ray.$entry_point" "$@"
