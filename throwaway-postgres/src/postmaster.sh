# Runs one throw-away PostgreSQL for the process that holds the other end of standard input.
#
#     sh -c "$THIS" postmaster RUN_DIRECTORY BIN_DIRECTORY [SERVER_OPTION...]
#
# One order a line on standard input, one answer a line on standard output. However that process ends, kill -9
# included, the operating system closes its end of the pipe: then the server is killed and its files are removed.
# The postmaster is a child of this shell and reaped only here, so that its process id cannot become another's.
set -u
umask 077
# An interrupt from the terminal, or an answer that nobody reads, must not keep the end of this script from running.
trap '' HUP INT TERM PIPE

run=$1
bin=$2
shift 2
server=

# Process ids of the children of process $1 that are PostgreSQL's.
children() {
    if [ -r /proc/self/stat ]; then
        for stat in /proc/[0-9]*/stat; do
            { read -r id name _ parent _ <"$stat"; } 2>/dev/null || continue
            if [ "$name" = '(postgres)' ] && [ "$parent" = "$1" ]; then
                echo "$id"
            fi
        done
    else
        ps -A -o pid= -o ppid= | while read -r id parent; do
            if [ "$parent" = "$1" ]; then
                echo "$id"
            fi
        done
    fi
}

# Sends signal $1 to the postmaster and all of its children.
signal_all() {
    # A stopped postmaster starts no child that would be missed.
    kill -STOP "$server"
    family=$(children "$server")
    # shellcheck disable=SC2086 # one argument for each process id
    kill "-$1" $family "$server"
}

kill_all() {
    [ -n "$server" ] || return 0
    signal_all KILL
    wait "$server"
    server=
    # The next start is refused while a process of this one still holds the shared memory.
    for child in $family; do
        tries=0
        while [ "$tries" -lt 500 ] && kill -0 "$child"; do
            tries=$((tries + 1))
            sleep 0.01
        done
    done
}

# Shuts the server down by signal $1 to the postmaster.
shut_down() {
    [ -n "$server" ] || return 0
    signal_all CONT
    kill "-$1" "$server"
    wait "$server"
    server=
}

initialise() {
    "$bin/initdb" --pgdata "$run/data" --username postgres --pwfile "$run/password" \
        --auth scram-sha-256 --encoding UTF8 --locale C --no-sync --no-instructions \
        </dev/null >>"$run/log" 2>&1
    status=$?
    rm -f "$run/password"
    return "$status"
}

is_up() {
    [ -n "$server" ] || return 1
    # Listing the jobs makes the shell notice a child that ended.
    jobs >/dev/null
    kill -0 "$server" || { server=; return 1; }
}

while read -r order port; do
    case $order in
    initialise)
        if initialise; then echo done; else echo failed; fi
        ;;
    start)
        if ! is_up; then
            "$bin/postgres" -D "$run/data" -p "$port" "$@" </dev/null >>"$run/log" 2>&1 &
            server=$!
        fi
        echo "$server"
        ;;
    process)
        if is_up; then echo "$server"; else echo none; fi
        ;;
    freeze) if is_up; then signal_all STOP; fi; echo done ;;
    thaw) if is_up; then signal_all CONT; fi; echo done ;;
    kill) kill_all; echo done ;;
    stop) shut_down INT; echo done ;;
    *) echo "unknown order" ;;
    esac
done

# At once, as if killed, but the server gives back its shared memory, which no other process would do. After a kill
# without a restart that is left to us.
if [ -n "$server" ]; then
    shut_down QUIT
elif [ -r "$run/data/postmaster.pid" ]; then
    ipcrm -m "$(sed -n '7s/.* //p' "$run/data/postmaster.pid")"
fi
# A child that is just ending may still add a file to a directory that is being removed.
rm -rf -- "$run/data" || { sleep 0.2; rm -rf -- "$run/data"; }
# In a directory of root's this user cannot remove the rest: the lock file stays, and tells the next run that it may.
if [ -w "${run%/*}" ]; then
    rm -rf -- "$run"
fi
