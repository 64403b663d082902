#!/usr/bin/env bash
# The dead-man timer: terminates this pod at RRAY_DEADLINE (seconds since 1970), independently of all other processes.
#
#   deadman.sh              wait for the deadline; started first at each start of the container
#   deadman.sh end REASON   terminate the pod now: flush files, write DONE.json to the volume, then send requests until it
#                           is terminated
#   deadman.sh begin HOURS  for a pod created in the console: set the deadline, unless the pod has one, and start the timer;
#                           without HOURS, start the timer for an existing deadline, if any
#   deadman.sh within HOURS the same, but keep the earlier of the two deadlines
#
# It needs only bash, coreutils and curl. RunPod gives each pod its own key, RUNPOD_API_KEY, which can terminate this pod
# and nothing else; the key of the account is never on a pod.
set -u
umask 077
LOCAL="$HOME/.rainbow"
mkdir -p "$LOCAL"

# ssh sessions lack the variables of the container, so read them from the environment of its first process.
import_variable() { # NAME
  [ -n "${!1:-}" ] || [ ! -r /proc/1/environ ] || export "$1=$(tr '\0' '\n' < /proc/1/environ | sed -n "s/^$1=//p" | head -1)"
}

# Set $read_deadline to the whole seconds in the first line of a file, or to an empty string.
read_deadline=""
read_from() { # FILE
  read_deadline=""
  { read -r read_deadline < "$1"; } 2> /dev/null
  read_deadline="${read_deadline%.*}"
  [[ "$read_deadline" =~ ^[0-9]+$ ]] || read_deadline=""
}

write_atomically() { # TEXT FILE
  { echo "$1" > "$2.$$" && mv "$2.$$" "$2"; } 2> /dev/null
}

begin() { # [HOURS [earlier]]
  if [ -n "${1:-}" ] && { [[ ! "$1" =~ ^[0-9]+(\.[0-9]+)?$ ]] || [[ "$1" =~ ^[0.]+$ ]]; }; then
    echo "error: '$1' is not a number of hours such as 8 (RRAY_TTL_HOURS); no timer was started" >&2
    exit 2
  fi
  import_variable RUNPOD_POD_ID
  import_variable RUNPOD_API_KEY
  if [ -z "${RUNPOD_POD_ID:-}" ]; then
    echo "warning: this machine is not a RunPod pod and will not terminate itself"
    return
  fi
  # the deadline is stored on the volume too, since a restarted container may have lost its own disk
  local volume_file="${RRAY_WORKSPACE:-/workspace}/clusters/deadline-$RUNPOD_POD_ID" file initial deadline="" requested=""
  for file in "$LOCAL/deadline" "$volume_file"; do
    read_from "$file"
    deadline="$read_deadline"
    [ -n "$deadline" ] && break
  done
  # pods that were created by `up` have an initial deadline
  import_variable RRAY_DEADLINE
  initial="${RRAY_DEADLINE:-}"
  initial="${initial%.*}"
  if [[ "$initial" =~ ^[0-9]+$ ]] && { [ -z "$deadline" ] || [ "$initial" -lt "$deadline" ]; }; then deadline="$initial"; fi
  [ -z "${1:-}" ] || requested="$(awk -v now="$(date +%s)" -v hours="$1" 'BEGIN { printf "%d", now + hours * 3600 }')"
  if [ -z "$deadline" ] || { [ "${2:-}" = earlier ] && [ "$requested" -lt "$deadline" ]; }; then
    [ -n "$requested" ] || return 0
    deadline="$requested"
  fi
  mkdir -p "$(dirname "$volume_file")" 2> /dev/null
  write_atomically "$deadline" "$LOCAL/deadline"
  write_atomically "$deadline" "$volume_file"
  if [ -z "${RUNPOD_API_KEY:-}" ] && ! command -v runpodctl > /dev/null; then
    echo "warning: this pod has no API key and will not terminate itself"
    return
  fi
  RRAY_DEADLINE="$deadline" setsid nohup bash "${BASH_SOURCE[0]}" >> "$LOCAL/deadman.log" 2>&1 < /dev/null &
  echo "this pod will terminate itself at $(date -d "@$deadline" +%FT%TZ -u)"
}

# Write the variables that logins need to pod.env.
write_pod_env() {
  local name
  for name in RUNPOD_POD_ID RUNPOD_API_KEY $(compgen -e RRAY_) $(compgen -e RAINBOW_); do
    [ -n "${!name:-}" ] && printf 'export %s=%q\n' "$name" "${!name}"
  done > "$LOCAL/.pod.env.$$"
  mv "$LOCAL/.pod.env.$$" "$LOCAL/pod.env"
}

# Send one request; the key is passed through standard input, so that `ps` does not show it.
send_request() { # METHOD PATH [BODY]
  printf 'header = "Authorization: Bearer %s"\n' "${RUNPOD_API_KEY:-}" |
    curl -fsS --max-time 20 -o /dev/null --config - -X "$1" ${3:+-H 'Content-Type: application/json' -d "$3"} \
      "${RRAY_API_URL:-https://api.runpod.io}/v2/pods/$RUNPOD_POD_ID$2"
}

write_end_marker() { # REASON
  local folder="${RRAY_WORKSPACE:-/workspace}/clusters/${RRAY_CLUSTER:-none}" file=DONE.json
  [ "${RRAY_ROLE:-head}" = head ] || file="ended-${RUNPOD_POD_ID:-pod}.json"
  mkdir -p "$folder" &&
    printf '{"cluster": "%s", "pod": "%s", "reason": "%s", "time": %s}\n' \
      "${RRAY_CLUSTER:-}" "${RUNPOD_POD_ID:-}" "$1" "$(date +%s)" > "$folder/.$file.$$" &&
    mv "$folder/.$file.$$" "$folder/$file"
}

end_pod() { # REASON
  echo "$(date -u +%FT%TZ) terminating: $1"
  # give a running job time to stop; its files are written atomically
  pkill -TERM -f '[c]luster.pod.job run' 2>/dev/null && sleep "${RRAY_FLUSH_SECONDS:-5}"
  # limit the wait, since the volume may be full or unreachable
  (write_end_marker "$1"; sync) & local flush=$! waited=0
  while kill -0 "$flush" 2>/dev/null && [ "$waited" -lt 60 ]; do sleep 1; waited=$((waited + 1)); done
  local rounds=0
  while :; do
    # stop the pod only as a last resort: the disk of a stopped pod is billed, and this timer does not run on it
    send_request DELETE "" || send_request POST /action '{"action": "terminate"}' ||
      { command -v runpodctl > /dev/null && timeout 60 runpodctl remove pod "$RUNPOD_POD_ID"; } ||
      { [ "$rounds" -ge "${RRAY_STOP_AFTER:-20}" ] && send_request POST /action '{"action": "stop"}'; } ||
      echo "$(date -u +%FT%TZ) cannot terminate this pod yet, retrying"
    rounds=$((rounds + 1))
    sleep "${RRAY_END_PAUSE:-15}"
  done
}

if [ "${1:-}" = end ]; then
  # shellcheck disable=SC1091
  [ -f "$LOCAL/pod.env" ] && . "$LOCAL/pod.env"
  end_pod "${2:-requested}"
fi
case "${1:-}" in
  begin) begin "${2:-}"; exit 0 ;;
  within) begin "${2:-}" earlier; exit 0 ;;
esac

write_pod_env
exec 9> "$LOCAL/deadman.lock"
if command -v flock > /dev/null && ! flock -n 9; then exit 0; fi # another timer is running
echo "$(date -u +%FT%TZ) this pod will terminate itself at $(date -u -d "@${RRAY_DEADLINE%.*}" +%FT%TZ 2>/dev/null)"
# the deadline is absolute, so that restarts and pauses do not extend it; `within` may set an earlier one
deadline="${RRAY_DEADLINE%.*}"
while [ "$(date +%s)" -lt "$deadline" ]; do
  sleep "${RRAY_TICK:-5}"
  read_from "$LOCAL/deadline"
  [ -n "$read_deadline" ] && [ "$read_deadline" -lt "$deadline" ] && deadline="$read_deadline"
done
end_pod "the time to live has expired"
