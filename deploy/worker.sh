#!/bin/bash
# Runs a Prefect worker as the main command of a container: deploy/worker.sh --pool gpu --type process
# When the container is stopped, the runs save and report before it ends. The worker gets SIGKILL,
# because then its runs end by themselves (flows/child_commands.py); after SIGTERM it kills them.
GEAR_WORKER=$$ setsid prefect worker start "$@" &
worker=$!
trap 'kill -KILL "$worker"' INT TERM
wait "$worker"
code=$?
# the variable marks the worker and all that it started
while grep --quiet --no-messages --null-data "^GEAR_WORKER=$$\$" /proc/[0-9]*/environ; do
    sleep 0.5
done
exit "$code"
