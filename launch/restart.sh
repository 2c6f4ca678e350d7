#!/usr/bin/env bash
# Runs a command again for as long as it asks for it: what all launch scripts here do with `osteojax train`.
#
#   launch/restart.sh osteojax train --config=... --workdir=RUN ...
#
# Status 75 (EX_TEMPFAIL: stopped by a signal with everything saved, or another process is gone) and a process that was
# killed (137, 143) or aborted (134) mean: start again, the run goes on from its last checkpoint. Anything else is final.
#
#   RESTARTS=20       starts in a row that bring the run no further (its checkpoints tell), then it stops
#   PAUSE=10          seconds before the next start
set -uo pipefail

restarts=${RESTARTS:-20}
pause=${PAUSE:-10}

if [[ $# -eq 0 ]]; then
    echo "usage: launch/restart.sh COMMAND..." >&2
    exit 64
fi

workdir=
for word in "$@"; do
    [[ $word == --workdir=* ]] && workdir=${word#--workdir=}
done

# The newest checkpoint: what a start has to get beyond to count as progress.
newest() {
    if [[ $workdir == *://* ]]; then
        # Of a bucket that does not answer nothing is known: such a start counts as fruitless.
        python3 -c 'import sys; from osteojax import storage; print(storage.newest_step(sys.argv[1]))' "$workdir" 2>/dev/null
        return 0
    fi
    [[ -d $workdir/checkpoints ]] || return 0
    find "$workdir/checkpoints" -maxdepth 1 -mindepth 1 -regex '.*/[0-9]+' -printf '%f\n' | sort -n | tail -1
}

child=
# A signal to this script is one to the run; the run saves and says 75, and then nothing is started again.
stopping=
forward() {
    stopping=1
    [[ -n $child ]] && kill -TERM "$child" 2>/dev/null
}
trap forward TERM INT

fruitless=0
while true; do
    before=$(newest)
    "$@" &
    child=$!
    status=0
    wait "$child" || status=$?
    # `wait` returns early where a trap ran: the run itself is still saving.
    while kill -0 "$child" 2>/dev/null; do
        status=0
        wait "$child" || status=$?
    done
    [[ -n $stopping ]] && exit "$status"
    case $status in
        75 | 134 | 137 | 143) ;;
        *) exit "$status" ;;
    esac
    if [[ "$(newest)" == "$before" ]]; then
        fruitless=$((fruitless + 1))
    else
        fruitless=0
    fi
    if ((fruitless >= restarts)); then
        echo "restart.sh: $fruitless starts in a row brought the run no further; its last status was $status" >&2
        exit "$status"
    fi
    echo "restart.sh: status $status, starting again in $pause s" >&2
    sleep "$pause" &
    wait $!
    [[ -n $stopping ]] && exit 75
done
