#!/usr/bin/env bash
# On a pod that was made by hand, or any machine with a GPU, from a clone of the repository:
#
#   bash cluster/pod/setup.sh && bash cluster/pod/train.sh                      phase 1 on the table in /workspace/data
#   bash cluster/pod/train.sh --phase 3 --folds 5                                other flags of rainbow_ray.train
#   bash cluster/pod/train.sh tune --phase 1 --trials 30                         a sweep
#
# It starts the timer that ends the pod (RRAY_TTL_HOURS, 8), a token, and Ray on this machine alone, then works.
# The dashboard is on 127.0.0.1:8265: `ssh -L 8265:127.0.0.1:8265 …`, and the token in ~/.rainbow/ray_token.
set -euo pipefail
POD="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
# shellcheck source=/dev/null
. "$POD/env.sh"
if [ ! -x "$RRAY_ENV/bin/python" ]; then
  echo "error: no environment in $RRAY_ENV: bash cluster/pod/setup.sh makes it" >&2
  exit 2
fi
# nobody's web terminal counts as idle here: the deadline alone ends the pod, unless RRAY_IDLE (seconds) says otherwise
export RRAY_IDLE="${RRAY_IDLE:-inf}"
bash "$POD/deadman.sh" begin "${RRAY_TTL_HOURS:-8}"
umask 077
mkdir -p "$HOME/.rainbow"
[ -s "$RAY_AUTH_TOKEN_PATH" ] || python -c 'import secrets; print(secrets.token_hex(32), end="")' > "$RAY_AUTH_TOKEN_PATH"
cd "$RRAY_CODE"
python -m cluster.pod.node start head
# shellcheck source=/dev/null
. "$POD/env.sh" # the address that node.py has just written
door=train
case "${1:-}" in train | tune | check) door="$1"; shift ;; esac
[ "$#" -gt 0 ] || set -- --phase 1
exec python -m "rainbow_ray.$door" "$@"
