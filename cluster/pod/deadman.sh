#!/usr/bin/env bash
# The dead-man timer: ends this pod at RRAY_DEADLINE (seconds since 1970), whatever else happens on it.
#
#   deadman.sh              wait for the deadline; started before anything else, again at each start of the container
#   deadman.sh end REASON   end the pod now: write what is unwritten, DONE.json onto the volume, then ask until it is gone
#   deadman.sh begin HOURS  on a pod that was made by hand: a deadline in so many hours, unless it has one, and the timer;
#                           `begin` alone goes on with the deadline it has, if any
#   deadman.sh within HOURS the same, and the earlier of the two where it has one
#
# It uses what every image has (bash, coreutils, curl). RunPod gives each pod a key of its own, RUNPOD_API_KEY, that may
# end this pod and nothing else; no key of the account is ever here.
set -u
umask 077
LOCAL="$HOME/.rainbow"
mkdir -p "$LOCAL"

# Containers' variables do not reach ssh sessions: the first process has them.
own_variable() { # NAME
  [ -n "${!1:-}" ] || [ ! -r /proc/1/environ ] || export "$1=$(tr '\0' '\n' < /proc/1/environ | sed -n "s/^$1=//p" | head -1)"
}

# The whole seconds in a file's first line, into $read_deadline; nothing where there are none.
read_deadline=""
read_from() { # FILE
  read_deadline=""
  { read -r read_deadline < "$1"; } 2> /dev/null
  read_deadline="${read_deadline%.*}"
  [[ "$read_deadline" =~ ^[0-9]+$ ]] || read_deadline=""
}

write_whole() { # TEXT FILE
  { echo "$1" > "$2.$$" && mv "$2.$$" "$2"; } 2> /dev/null
}

begin() { # [HOURS [earlier]]
  if [ -n "${1:-}" ] && { [[ ! "$1" =~ ^[0-9]+(\.[0-9]+)?$ ]] || [[ "$1" =~ ^[0.]+$ ]]; }; then
    echo "error: '$1' is no number of hours, such as 8 (RRAY_TTL_HOURS): no timer was started" >&2
    exit 2
  fi
  own_variable RUNPOD_POD_ID
  own_variable RUNPOD_API_KEY
  if [ -z "${RUNPOD_POD_ID:-}" ]; then
    echo "this machine is no pod of RunPod's: nothing ends it by itself"
    return
  fi
  # on the volume too: a container that is started anew may have lost its own disk
  local kept="${RRAY_WORKSPACE:-/workspace}/clusters/deadline-$RUNPOD_POD_ID" place found="" wanted=""
  for place in "$LOCAL/deadline" "$kept"; do
    read_from "$place"
    found="$read_deadline"
    [ -n "$found" ] && break
  done
  # a pod that `up` made, here or elsewhere, began with one
  own_variable RRAY_DEADLINE
  place="${RRAY_DEADLINE:-}"
  place="${place%.*}"
  if [[ "$place" =~ ^[0-9]+$ ]] && { [ -z "$found" ] || [ "$place" -lt "$found" ]; }; then found="$place"; fi
  [ -z "${1:-}" ] || wanted="$(awk -v now="$(date +%s)" -v hours="$1" 'BEGIN { printf "%d", now + hours * 3600 }')"
  if [ -z "$found" ] || { [ "${2:-}" = earlier ] && [ "$wanted" -lt "$found" ]; }; then
    [ -n "$wanted" ] || return 0
    found="$wanted"
  fi
  mkdir -p "$(dirname "$kept")" 2> /dev/null
  write_whole "$found" "$LOCAL/deadline"
  write_whole "$found" "$kept"
  if [ -z "${RUNPOD_API_KEY:-}" ] && ! command -v runpodctl > /dev/null; then
    echo "this pod has no key to end itself with: nothing ends it by itself"
    return
  fi
  RRAY_DEADLINE="$found" setsid nohup bash "${BASH_SOURCE[0]}" >> "$LOCAL/deadman.log" 2>&1 < /dev/null &
  echo "this pod ends itself at $(date -d "@$found" +%FT%TZ -u)"
}

# What a login needs to know.
remember() {
  local name
  for name in RUNPOD_POD_ID RUNPOD_API_KEY $(compgen -e RRAY_) $(compgen -e RAINBOW_); do
    [ -n "${!name:-}" ] && printf 'export %s=%q\n' "$name" "${!name}"
  done > "$LOCAL/.pod.env.$$"
  mv "$LOCAL/.pod.env.$$" "$LOCAL/pod.env"
}

# One request; the key goes over standard input, out of sight of `ps`.
ask() { # METHOD PATH [BODY]
  printf 'header = "Authorization: Bearer %s"\n' "${RUNPOD_API_KEY:-}" |
    curl -fsS --max-time 20 -o /dev/null --config - -X "$1" ${3:+-H 'Content-Type: application/json' -d "$3"} \
      "${RRAY_API_URL:-https://api.runpod.io}/v2/pods/$RUNPOD_POD_ID$2"
}

note_the_end() { # REASON
  local folder="${RRAY_WORKSPACE:-/workspace}/clusters/${RRAY_CLUSTER:-none}" file=DONE.json
  [ "${RRAY_ROLE:-head}" = head ] || file="ended-${RUNPOD_POD_ID:-pod}.json"
  mkdir -p "$folder" &&
    printf '{"cluster": "%s", "pod": "%s", "reason": "%s", "time": %s}\n' \
      "${RRAY_CLUSTER:-}" "${RUNPOD_POD_ID:-}" "$1" "$(date +%s)" > "$folder/.$file.$$" &&
    mv "$folder/.$file.$$" "$folder/$file"
}

end_pod() { # REASON
  echo "$(date -u +%FT%TZ) ending: $1"
  # a job gets a moment for what it has in its hands; all its files are whole at any instant
  pkill -TERM -f '[c]luster.pod.job run' 2>/dev/null && sleep "${RRAY_FLUSH_SECONDS:-5}"
  # neither a full nor a dead volume may keep a pod alive
  (note_the_end "$1"; sync) & local flush=$! waited=0
  while kill -0 "$flush" 2>/dev/null && [ "$waited" -lt 60 ]; do sleep 1; waited=$((waited + 1)); done
  local rounds=0
  while :; do
    # a pod that is stopped still costs its disk, and this timer stops with it: only when nothing else has worked for long
    ask DELETE "" || ask POST /action '{"action": "terminate"}' ||
      { command -v runpodctl > /dev/null && timeout 60 runpodctl remove pod "$RUNPOD_POD_ID"; } ||
      { [ "$rounds" -ge "${RRAY_STOP_AFTER:-20}" ] && ask POST /action '{"action": "stop"}'; } ||
      echo "$(date -u +%FT%TZ) no way to end this pod yet"
    rounds=$((rounds + 1))
    sleep "${RRAY_END_PAUSE:-15}"
  done
}

if [ "${1:-}" = end ]; then
  # shellcheck disable=SC1091
  [ -f "$LOCAL/pod.env" ] && . "$LOCAL/pod.env"
  end_pod "${2:-asked}"
fi
case "${1:-}" in
  begin) begin "${2:-}"; exit 0 ;;
  within) begin "${2:-}" earlier; exit 0 ;;
esac

remember
exec 9> "$LOCAL/deadman.lock"
if command -v flock > /dev/null && ! flock -n 9; then exit 0; fi # one is enough
echo "$(date -u +%FT%TZ) this pod ends at $(date -u -d "@${RRAY_DEADLINE%.*}" +%FT%TZ 2>/dev/null)"
# an absolute time, so that neither a restart nor a pause makes it longer; `within` may make it earlier
ends="${RRAY_DEADLINE%.*}"
while [ "$(date +%s)" -lt "$ends" ]; do
  sleep "${RRAY_TICK:-5}"
  read_from "$LOCAL/deadline"
  [ -n "$read_deadline" ] && [ "$read_deadline" -lt "$ends" ] && ends="$read_deadline"
done
end_pod "the time to live is over"
