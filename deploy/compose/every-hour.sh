#!/bin/sh
# Runs `carat hourly` now and at each full hour, as carat-hourly.timer does with systemd.
# The file that is named, by default /tmp/hourly.done, is touched after each run that is done or may wait an hour: the
# health check looks at its age. A failed run is repeated in the next hour. Wrong settings (2) end this.
set -u
done_file=${1:-/tmp/hourly.done}
child=

stop() {
    if [ -n "$child" ]; then
        kill -TERM "$child" 2>/dev/null
        wait "$child"
    fi
    exit 0
}
trap stop TERM INT

while :; do
    carat hourly &
    child=$!
    wait "$child"
    code=$?
    case $code in
        0) touch "$done_file" ;;
        75) # another process writes: this hour's work is done in the next
            touch "$done_file"
            ;;
        2) exit 2 ;;
        *) echo "every-hour: carat hourly failed with code $code; it runs again at the next full hour" >&2 ;;
    esac
    sleep "$((3600 - $(date +%s) % 3600))" &
    child=$!
    wait "$child"
    child=
done
