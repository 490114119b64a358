# Processes that outlive the script that started them. Read by ops/services and ops/cluster.
#
# Each has a label, a log $logs/LABEL.log and a file $state/LABEL.pid with its number and when it started, so that nobody
# is taken for it who got its number later. $state and $logs are given by the script that reads this file.
# shellcheck shell=bash disable=SC2154

# Starts a process that outlives this script, unless it runs. LABEL names its log and is unique over all that share $logs.
start_process() { # label command...
    local label=$1 pid
    shift
    if process_lives "$label"; then return 0; fi
    # A session of its own: the process is the leader of its group, and no Ctrl-C of this terminal reaches it.
    setsid "$@" >>"$logs/$label.log" 2>&1 </dev/null 9>&- &
    pid=$!
    echo "$pid $(process_started_at "$pid")" >"$state/$label.pid"
}

# Ends a process that start_process started, and its group; kills it after SECONDS (10).
stop_process() { # label [seconds]
    local label=$1 seconds=${2:-10} pid rest
    [ -e "$state/$label.pid" ] || return 0
    if process_lives "$label"; then
        read -r pid rest <"$state/$label.pid"
        kill "$pid" 2>/dev/null || true
        for ((tenths = 0; tenths < seconds * 10; tenths++)); do
            process_lives "$label" || break
            sleep 0.1
        done
        kill -KILL -- "-$pid" 2>/dev/null || true
    fi
    rm -f "$state/$label.pid"
}

# Whether the process that start_process started lives: its number may have gone to another since.
process_lives() { # label
    local pid started_at
    [ -e "$state/$1.pid" ] || return 1
    read -r pid started_at <"$state/$1.pid"
    [ -n "$started_at" ] && [ "$(process_started_at "$pid")" = "$started_at" ]
}

# When a process started, in ticks since the machine's boot; nothing if it is gone or only waits to be reaped.
process_started_at() { # pid
    sed -E 's/^.*\) //' "/proc/$1/stat" 2>/dev/null | awk '$1 != "Z" {print $20}'
}

# Whether something listens.
port_open() { # host port
    (exec 3<>"/dev/tcp/$1/$2") 2>/dev/null
}
