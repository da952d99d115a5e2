#!/usr/bin/env bash
# A Docker engine for tests, where none runs: Debian, as root. It lives in one folder, and `purge` takes all of it back.
#   docker_engine.sh start   install docker.io if it is missing, start dockerd, wait until it answers
#   docker_engine.sh base    make $BASE_IMAGE from Debian packages, without any image registry
#   docker_engine.sh env     print the exports to eval
#   docker_engine.sh stop    remove this engine's containers and end it
#   docker_engine.sh purge   stop, and remove images, state, network bridge and firewall rules
# FAKE_GPU=1 lets the engine accept a request for GPUs and gives none: to look at what a container was asked to have.
set -euo pipefail

STATE=${DOCKER_ENGINE_STATE:-/var/tmp/xmas-docker}
BASE_IMAGE=${BASE_IMAGE:-xmas-base:test}
export DOCKER_HOST=unix://$STATE/docker.sock DEBIAN_FRONTEND=noninteractive
# Debian's own client builds with BuildKit; another one earlier in PATH may not.
DOCKER=/usr/bin/docker
export DOCKER_BUILDKIT=1

say() { echo "docker engine: $*" >&2; }

install() {
    local command=$1
    shift
    [ -x "/usr/bin/$command" ] || [ -x "/usr/sbin/$command" ] && return
    apt-get update -qq
    apt-get install -y -qq --no-install-recommends "$@" >"$STATE/apt.log" 2>&1 || { tail -20 "$STATE/apt.log" >&2; return 1; }
}

# A process that ended but was not waited for still answers kill -0; its command line is empty.
runs() { [ -s "$STATE/docker.pid" ] && grep -qa dockerd "/proc/$(cat "$STATE/docker.pid")/cmdline" 2>/dev/null; }

wait_for() {
    local what=$1 seconds=$2
    shift 2
    for _ in $(seq "$((seconds * 5))"); do
        "$@" >/dev/null 2>&1 && return
        sleep 0.2
    done
    say "waited $seconds s in vain for $what"
    return 1
}

start() {
    mkdir -p "$STATE/bin"
    if runs; then
        say "runs already, pid $(cat "$STATE/docker.pid")"
        return
    fi
    install dockerd docker.io
    rm -f "$STATE/docker.pid" "$STATE/bin/nvidia-container-runtime-hook"
    if [ "${FAKE_GPU:-0}" = 1 ]; then
        printf '#!/bin/sh\nexec cat >/dev/null\n' >"$STATE/bin/nvidia-container-runtime-hook"
        chmod +x "$STATE/bin/nvidia-container-runtime-hook"
    fi
    PATH="$STATE/bin:$PATH" setsid nohup /usr/sbin/dockerd --data-root "$STATE/data" --exec-root "$STATE/exec" \
        --pidfile "$STATE/docker.pid" --host "$DOCKER_HOST" >"$STATE/dockerd.log" 2>&1 </dev/null &
    if ! wait_for "dockerd" 60 "$DOCKER" version; then
        tail -30 "$STATE/dockerd.log" >&2
        return 1
    fi
    say "up, pid $(cat "$STATE/docker.pid")"
}

# A Debian with Python, and how this machine reaches its package indexes: CA bundle, pip's settings, local wheels.
base() {
    start
    if "$DOCKER" image inspect "$BASE_IMAGE" >/dev/null 2>&1; then
        say "$BASE_IMAGE is there"
        return
    fi
    install mmdebstrap mmdebstrap
    local root=$STATE/root
    rm -rf "$root"
    mkdir -p "$root"
    mmdebstrap --quiet --mode=root --variant=apt --dpkgopt='path-exclude=/usr/share/man/*' \
        --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
        --include=python3,python3-pip,python3-venv,ca-certificates,libgomp1 bookworm "$root.tar"
    tar -C "$root" --exclude='./dev/*' -xf "$root.tar"
    rm "$root.tar"
    cp -f /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/"
    mkdir -p "$root/wheels"
    find "${PIP_FIND_LINKS:-/nowhere}" -maxdepth 1 -name '*.whl' -exec cp {} "$root/wheels/" \; 2>/dev/null || true
    printf '[global]\ncert = /etc/ssl/certs/ca-certificates.crt\nfind-links = /wheels\n' >"$root/etc/pip.conf"
    ln -sfn /usr/bin/python3 "$root/usr/local/bin/python"
    tar -C "$root" -c . | "$DOCKER" import -c 'CMD ["python"]' - "$BASE_IMAGE" >/dev/null
    rm -rf "$root"
    say "made $BASE_IMAGE"
}

stop() {
    if ! runs; then
        say "does not run"
        return
    fi
    local containers
    containers=$("$DOCKER" ps -aq)
    # shellcheck disable=SC2086
    [ -z "$containers" ] || "$DOCKER" rm -f $containers >/dev/null
    kill "$(cat "$STATE/docker.pid")"
    has_ended() { ! runs; }
    wait_for "its end" 30 has_ended
    say "stopped"
}

purge() {
    stop
    awk -v state="$STATE/" 'index($2, state) == 1 {print $2}' /proc/mounts | sort -r | xargs -r umount
    rm -rf "$STATE"
    ip link delete docker0 2>/dev/null || true
    local table
    for table in filter nat; do
        iptables -t "$table" -S 2>/dev/null | grep -E '^-A .*(DOCKER|docker0)' | sed 's/^-A/-D/' |
            while read -r rule; do eval "iptables -t $table $rule" || true; done
        iptables -t "$table" -S 2>/dev/null | awk '/^-N DOCKER/ {print $2}' | while read -r chain; do
            iptables -t "$table" -F "$chain" && iptables -t "$table" -X "$chain" || true
        done
    done
    iptables -P FORWARD ACCEPT 2>/dev/null || true
}

case ${1:-} in
start | base | stop | purge) "$1" ;;
env) echo "export DOCKER_HOST=$DOCKER_HOST BASE_IMAGE=$BASE_IMAGE DOCKER_BUILDKIT=1" ;;
*)
    sed -n 's/^# \?//p' "$0" | head -8
    exit 2
    ;;
esac
