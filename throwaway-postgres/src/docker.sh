# Runs the project's PostgreSQL in Docker for the process that holds the other end of standard input.
#
#     sh -c "$THIS" docker PROJECT COMPOSE_FILE
#
# The order `up` on standard input is answered on standard output when the server is healthy. However that process
# ends, kill -9 included, the operating system closes its end of the pipe: then container and volume are removed.
set -u
# An interrupt from the terminal, or an answer that nobody reads, must not keep the end of this script from running.
trap '' HUP INT TERM PIPE

project=$1
file=$2

while read -r order; do
    case $order in
    up)
        if log=$(docker compose -p "$project" -f "$file" up --detach --wait --wait-timeout 180 2>&1); then
            echo done
        else
            echo "failed $(printf '%s' "$log" | tail -n 8 | tr '\n' '|')"
        fi
        ;;
    *) echo "unknown order" ;;
    esac
done

docker compose -p "$project" -f "$file" down --volumes --timeout 1
