#!/usr/bin/env bash
# Rehearses a cluster on this machine: PROCESSES processes with DEVICES simulated devices each run one command together.
#
#   launch/local_cluster.sh PROCESSES DEVICES -- [COMMAND] FLAGS...
#   launch/local_cluster.sh 2 4 -- --config=configs/quickstart.py --workdir=runs/cluster --config.mesh=fsdp:-1
#   launch/local_cluster.sh 2 4 -- evaluate --workdir=runs/cluster
#
# COMMAND is train, or evaluate. Lines begin with the number of their process. Ctrl-C, or SIGTERM, asks all to save and stop; a
# second one ends them. The exit code is that of the process that failed, 42 when all saved and stopped; 134 says that another one
# was lost, so it gives way to what that one says. The others of a process that failed have GRACE seconds (60) to end by themselves.
# PYTHON names another interpreter.
set -euo pipefail

usage() {
  sed -n '4,6s/^#   //p' "$0" >&2
  exit 2
}

[[ $# -ge 4 && $1 =~ ^[1-9][0-9]*$ && $2 =~ ^[1-9][0-9]*$ && $3 == "--" ]] || usage
processes=$1 devices=$2
shift 3
command=train
if [[ $1 != -* ]]; then
  command=$1
  shift
fi
[[ $command == train || $command == evaluate ]] || usage

python=${PYTHON:-python}
port=$("$python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
pipes=$(mktemp -d)
running=() readers=()

# shellcheck disable=SC2329 # traps call it
stop_all() {
  asked=$((asked + 1))
  signal_all "$([[ $asked -eq 1 ]] && echo TERM || echo KILL)"
}

signal_all() {
  for pid in ${running[@]+"${running[@]}"}; do
    kill -"$1" "$pid" 2>/dev/null || true
  done
}

one_of_them() {
  export JAX_PLATFORMS=cpu JAX_NUM_CPU_DEVICES=$devices
  local number=$1
  shift
  exec "$python" -m "taxonomy.$command" "--coordinator=127.0.0.1:$port" "--processes=$processes" "--process=$number" "$@"
}

asked=0
trap stop_all INT TERM
trap 'signal_all KILL; rm -rf "$pipes"' EXIT

for ((i = 0; i < processes; i++)); do
  mkfifo "$pipes/$i.out" "$pipes/$i.err"
  # What the collectives' library says of its connections is left out, and with it the empty lines of all but the first process.
  quiet='/peer ranks/d'
  [[ $i -eq 0 ]] || quiet+=';/^$/d'
  # Signals of the terminal are for the processes: their last words are still read.
  (trap '' INT TERM; exec sed -u -e "$quiet" -e "s/^/[$i] /") <"$pipes/$i.out" &
  readers+=($!)
  (trap '' INT TERM; exec sed -u "s/^/[$i] /") <"$pipes/$i.err" >&2 &
  readers+=($!)
  one_of_them "$i" "$@" >"$pipes/$i.out" 2>"$pipes/$i.err" &
  running+=($!)
done

code=0 failed_at='' ended=''
while [[ ${#running[@]} -gt 0 ]]; do
  still=()
  for pid in "${running[@]}"; do
    if kill -0 "$pid" 2>/dev/null; then
      still+=("$pid")
      continue
    fi
    result=0
    wait "$pid" || result=$?
    if [[ $result -ne 0 && -z $ended && ($code -eq 0 || $code -eq 134) ]]; then
      code=$result failed_at=${failed_at:-$SECONDS}
    fi
  done
  running=(${still[@]+"${still[@]}"})
  if [[ -n $failed_at && $((SECONDS - failed_at)) -ge ${GRACE:-60} ]]; then
    ended=yes
    signal_all KILL
  fi
  [[ ${#running[@]} -eq 0 ]] || sleep 0.2
done
wait "${readers[@]}" || true
exit "$code"
