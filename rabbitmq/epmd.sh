#!/usr/bin/env bash
# To be sourced, behind scripts/processes.sh: the epmd (Erlang's port mapper) of a node or of a cluster. Its pid and log
# are in $dir, its port is $epmd_port; both, and `die`, are those of the script that sources it.
# shellcheck disable=SC2154

find_epmd() {
    local candidate
    for candidate in "$(command -v epmd || true)" /usr/lib/erlang/bin/epmd /usr/lib64/erlang/bin/epmd \
        /opt/homebrew/opt/erlang/bin/epmd /usr/local/opt/erlang/bin/epmd; do
        [[ -n $candidate && -x $candidate ]] || continue
        echo "$candidate"
        return
    done
    die "epmd is not installed; it belongs to Erlang"
}

# Runs a command in a session of its own: no Ctrl-C of ours reaches it, and it outlives us.
in_own_session() {
    if command -v setsid >/dev/null; then
        exec setsid "$@"
    fi
    exec perl -e 'use POSIX; POSIX::setsid(); exec { $ARGV[0] } @ARGV or die "$ARGV[0]: $!\n"' "$@"
}

epmd_pid_of_record() { cat "$dir/epmd.pid" 2>/dev/null || true; }

epmd_runs() { is_process "$(epmd_pid_of_record)" " -port $epmd_port "; }

is_listening() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

wait_until_not() { # timeout in seconds, condition
    local deadline=$((SECONDS + $1))
    while "$2"; do
        ((SECONDS < deadline)) || return 1
        sleep 0.05
    done
}

# Starts epmd on $epmd_port. Only one process can listen there, so an epmd that lives reserves the ports beside it
# against everybody else who is choosing ports at this moment.
start_epmd() {
    local deadline=$((SECONDS + 10))
    ! is_listening "$epmd_port" || return 1
    : >"$dir/log/epmd.log"
    (in_own_session "$(find_epmd)" -debug -debug -port "$epmd_port" -address 127.0.0.1) \
        </dev/null >"$dir/log/epmd.log" 2>&1 &
    epmd_pid=$!
    disown # no word from bash when it is killed
    echo $epmd_pid >"$dir/epmd.pid"
    # It answers, and it is ours that answers: a second epmd fails to bind and ends instead of saying this.
    until grep -q 'entering the main select' "$dir/log/epmd.log" && is_listening "$epmd_port"; do
        if ! kill -0 $epmd_pid 2>/dev/null || ((SECONDS >= deadline)); then
            end_child $epmd_pid
            return 1
        fi
        sleep 0.02
    done
}

end_epmd() {
    ! epmd_runs || kill -KILL "$(epmd_pid_of_record)" 2>/dev/null || true
    wait_until_not 10 epmd_runs || die "the epmd of $dir, pid $(epmd_pid_of_record), does not go away"
    rm -f "$dir/epmd.pid"
}

# Ends a program that this script has started in a session of its own, and what that has started. By its pid alone: it
# may not have the command line yet by which is_process would know it.
end_child() { # pid, or nothing
    [[ -n $1 ]] || return 0
    kill -KILL -- "-$1" "$1" || true
    while kill -0 "$1"; do sleep 0.05; done
} 2>/dev/null
