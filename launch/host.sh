#!/usr/bin/env bash
# One host of a run: what tpu_vm.py and SkyPilot's tasks do there.
#
#   host.sh prepare [EXTRA] [BUCKET]  installs the package with an extra such as tpu, and mounts a bucket at /bucket
#   host.sh start                     starts the run of CONFIG, WORKDIR and OVERRIDES, or starts it again; it outlives ssh and reboots
#   host.sh stop | status | logs [-f]
#   host.sh run                       what the service runs
#
# systemd is what starts again: on every exit code but 0 (done) and those that another try cannot mend.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
readonly UNIT=taxonomy.service SETTINGS=run.env

prepare() {
  local extra=${1:-} bucket=${2:-}
  export PATH="$HOME/.local/bin:$PATH"
  command -v uv >/dev/null || curl -LsSf https://astral.sh/uv/install.sh | sh
  # System images of TPUs bring an older Python than the package needs.
  uv venv --quiet --allow-existing --python 3.12 .venv
  uv pip install --quiet --python .venv/bin/python --editable ".${extra:+[$extra]}"
  [[ -z $bucket ]] || mount_bucket "${bucket#gs://}"
  echo "prepared $(hostname)"
}

mount_bucket() {
  local bucket=$1 unit=/etc/systemd/system/bucket.mount wanted probe
  if ! command -v gcsfuse >/dev/null; then
    local version=3.7.1 package
    package=$(mktemp --suffix=.deb)
    curl -fsSL -o "$package" \
      "https://github.com/GoogleCloudPlatform/gcsfuse/releases/download/v$version/gcsfuse_${version}_amd64.deb"
    chmod a+r "$package"
    # A fresh machine updates itself, and holds the lock meanwhile.
    sudo apt-get -qq -o DPkg::Lock::Timeout=600 update
    sudo apt-get -qq -o DPkg::Lock::Timeout=600 install --yes "$package"
    rm "$package"
  fi
  # No cached metadata, which some machines keep for good: hosts must see each other's files. A complete checkpoint is renamed.
  wanted=$(
    cat <<END
[Unit]
Description=gs://$bucket
After=network-online.target
Wants=network-online.target

[Mount]
What=$bucket
Where=/bucket
Type=gcsfuse
Options=rw,_netdev,allow_other,uid=$(id -u),gid=$(id -g),implicit_dirs,metadata_cache_ttl_secs=0,metadata_cache_negative_ttl_secs=0,rename_dir_limit=200000

[Install]
WantedBy=multi-user.target
END
  )
  if ! cmp --quiet "$unit" <<<"$wanted"; then
    if systemctl is-active --quiet bucket.mount; then sudo systemctl stop bucket.mount; fi
    sudo tee "$unit" >/dev/null <<<"$wanted"
    sudo systemctl daemon-reload
    sudo systemctl enable --quiet bucket.mount
  fi
  sudo systemctl start bucket.mount
  probe="/bucket/.$(hostname)"
  if ! (touch "$probe" && rm "$probe") 2>/dev/null; then
    echo "error: cannot write to gs://$bucket; give this machine's service account the role storage.objectUser on it" >&2
    exit 2
  fi
}

start() {
  printf '%s=%q\n' CONFIG "${CONFIG:-}" WORKDIR "${WORKDIR:-}" OVERRIDES "${OVERRIDES:-}" >"$SETTINGS"
  sudo tee "/etc/systemd/system/$UNIT" >/dev/null <<END
[Unit]
Description=python -m taxonomy.train
After=network-online.target remote-fs.target bucket.mount
Wants=network-online.target
StartLimitIntervalSec=6h
StartLimitBurst=20

[Service]
User=$(id -un)
ExecStart=/bin/bash $PWD/launch/host.sh run
Restart=on-failure
RestartSec=15
RestartPreventExitStatus=2 3 4
KillMode=mixed
TimeoutStopSec=600
LimitMEMLOCK=infinity
LimitNOFILE=1048576

[Install]
WantedBy=multi-user.target
END
  sudo systemctl daemon-reload
  sudo systemctl reset-failed "$UNIT" 2>/dev/null || true
  sudo systemctl enable --quiet "$UNIT"
  # Not waited for: a run that is replaced saves its state first.
  sudo systemctl restart --no-block "$UNIT"
  echo "started on $(hostname)"
}

run() {
  set -a
  # shellcheck source=/dev/null
  . "./$SETTINGS"
  exec .venv/bin/python launch/start.py
}

stop() {
  sudo systemctl disable --quiet "$UNIT"
  sudo systemctl stop "$UNIT"
  echo "stopped on $(hostname)"
}

# One line that tpu_vm.py reads.
status() {
  systemctl show "$UNIT" --property=LoadState,ActiveState,SubState,ExecMainStatus,NRestarts |
    sed 's/^/ /' | tr -d '\n' | sed "s/^/taxonomy-host=$(hostname)/"
  echo
}

logs() {
  sudo journalctl --unit="$UNIT" --output=cat --lines=200 "$@"
}

case ${1:-} in
  prepare | start | run | stop | status | logs) "$@" ;;
  *)
    echo "error: expected prepare, start, run, stop, status or logs, got '${1:-}'" >&2
    exit 2
    ;;
esac
