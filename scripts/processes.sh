#!/usr/bin/env bash
# To be sourced: what a process is and does, from /proc where there is one, else from ps, which minimal images lack.

[[ -r /proc/self/cmdline ]] || command -v ps >/dev/null || {
    echo "${0##*/}: neither /proc nor ps is here to tell processes apart" >&2
    exit 1
}

command_line() { # pid
    if [[ -r /proc/self/cmdline ]]; then
        tr '\0' ' ' <"/proc/$1/cmdline"
    else
        ps -ww -o args= -p "$1"
    fi 2>/dev/null
}

process_state() { # pid
    local stat
    if [[ -r /proc/self/stat ]]; then
        stat=$(<"/proc/$1/stat") && echo "${stat##*) }" # behind the name, which may contain anything
    else
        ps -o state= -p "$1"
    fi 2>/dev/null
}

# Whether pid $1 is alive and its command line, with a blank before and after, contains $2. A pid alone proves nothing: it
# may have been given to another process since. (A dead process that nobody has waited for has no command line.)
is_process() {
    [[ -n $1 && " $(command_line "$1") " == *"$2"* ]]
}

is_stopped_process() { [[ -n $1 && $(process_state "$1") == T* ]]; }
