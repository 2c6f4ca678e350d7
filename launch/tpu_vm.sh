#!/usr/bin/env bash
# A run on a Cloud TPU slice, from creation to deletion; every step may be repeated.
#
# needs      gcloud, logged in, with a project and the TPU API; data and workdir where all hosts see them
# command    NAME=bones ZONE=us-west4-a TYPE=v5litepod-8 launch/tpu_vm.sh all --config=... --workdir=... --config.data.dir=...
# cost       osteojax compile-check --config=configs/train/paper_resnet50.py --topology=v5e:2x4 --images=2114
#            the paper's 30 epochs: at least 2.2 s, 0.30 chip-minutes; start and compilation take longer
# follow     launch/tpu_vm.sh logs
# stop       launch/tpu_vm.sh stop: it saves and ends; launch/tpu_vm.sh delete gives the slice back
# resume     the same `all`, or `run`
#
#   create     a slice (SPOT=1: a spot one; QUEUED=1: through a queued resource), unless it is there
#   setup      copies the project and installs it on all hosts
#   run        trains on all hosts; a preempted slice is created and set up again, and the run goes on
set -euo pipefail

: "${NAME:?name of the slice}" "${ZONE:?zone, as in us-west4-a}" "${TYPE:=v5litepod-8}" "${VERSION:=v2-alpha-tpuv5-lite}"
attempts=${ATTEMPTS:-20}
# What `run` ends with after `stop`, as after Ctrl-C.
STOPPED=130
here=$(cd "$(dirname "$0")/.." && pwd)
tpu() { gcloud compute tpus tpu-vm "$@" --zone="$ZONE"; }
on_all() { tpu ssh "$NAME" --worker=all --command="$1"; }
log() { echo "tpu_vm.sh: $*" >&2; }

state() { tpu describe "$NAME" --format='value(state)' 2>/dev/null || true; }

create() {
    local now
    now=$(state)
    case $now in
        READY) return ;;
        PREEMPTED | TERMINATED | STOPPED | FAILED)
            log "$NAME is $now: deleting it first"
            delete
            ;;
        CREATING | STARTING | RESTARTING)
            wait_ready
            return
            ;;
    esac
    local spot=()
    [[ -n ${SPOT:-} ]] && spot=(--spot)
    if [[ -n ${QUEUED:-} ]]; then
        gcloud compute tpus queued-resources create "$NAME" --node-id="$NAME" --zone="$ZONE" \
            --accelerator-type="$TYPE" --runtime-version="$VERSION" "${spot[@]}"
        wait_ready
    else
        tpu create "$NAME" --accelerator-type="$TYPE" --version="$VERSION" "${spot[@]}"
    fi
}

wait_ready() {
    log "waiting for $NAME"
    until [[ $(state) == READY ]]; do sleep "${PAUSE:-30}"; done
}

setup() {
    local archive
    archive=$(mktemp --suffix=.tar.gz)
    git -C "$here" archive --format=tar.gz --output="$archive" HEAD
    tpu scp "$archive" "$NAME":osteojax.tar.gz --worker=all
    rm -f "$archive"
    on_all "mkdir -p osteojax && tar -xzf osteojax.tar.gz -C osteojax && cd osteojax && python3 -m venv .venv &&
        .venv/bin/pip install --quiet -c constraints.txt '.[tpu]'"
}

run() {
    local status attempt
    for ((attempt = 1; attempt <= attempts; attempt++)); do
        status=0
        on_all "cd osteojax && rm -f stopped && .venv/bin/osteojax train $(printf '%q ' "$@") 2>&1 | tee -a train.log;
            status=\${PIPESTATUS[0]}; [[ -e stopped ]] && exit $STOPPED; exit \$status" || status=$?
        [[ $status -eq 0 ]] && return
        [[ $status -eq $STOPPED ]] && log "stopped, as asked" && return "$status"
        if [[ $(state) != READY ]]; then
            log "$NAME is gone (preempted?): a new one, start $attempt"
            create
            setup
        elif [[ $status -ne 75 && $status -ne 134 && $status -ne 137 && $status -ne 143 ]]; then
            return "$status"
        else
            log "status $status: starting again"
        fi
        sleep "${PAUSE:-30}"
    done
    log "given up after $attempts starts"
    return "$status"
}

logs() { tpu ssh "$NAME" --worker=0 --command="tail -n 50 -F osteojax/train.log"; }

# The mark first, or `run` takes it for a preemption. The pattern spares the shells that have these words in their command.
stop() { on_all "touch osteojax/stopped; pkill -TERM -f 'bin/python[^ ]* [^ ]*bin/[o]steojax train'"; }

delete() {
    [[ -n ${QUEUED:-} ]] && gcloud compute tpus queued-resources delete "$NAME" --zone="$ZONE" --force --quiet
    if [[ -n $(state) ]]; then
        tpu delete "$NAME" --quiet
    fi
}

step=${1:-}
shift || true
case $step in
    create | setup | logs | stop | delete) "$step" ;;
    run) run "$@" ;;
    all)
        create
        setup
        run "$@"
        ;;
    *)
        sed -n '2,15p' "$0" >&2
        exit 64
        ;;
esac
