#!/usr/bin/env bash
# Ranks a model's layers on a dataset, fine-tunes the best of them and downloads what was trained.
# Needs curl, Python 3 for JSON (no packages) and tar.
#
#   rank_and_tune.sh MODEL DATASET K FOLDER
#
# DATASET is a preset (glue/cola), the id of an upload, or a file that is uploaded. In the
# environment:
#   SURGEON_URL, SURGEON_API_KEY  the service
#   RUN_ID                        the name of this run: whoever repeats it under this name finds its
#                                 jobs, running or finished (default: a name of its own)
#   SURGEON_TRAINING              the field `training` of the fine-tune, as JSON (default: {})
#   SURGEON_JOB_FILE              a file for the id of the job that is waited for (optional)
#   SURGEON_PATIENCE              seconds for which a service that is away is asked again (300)
set -euo pipefail
shopt -s inherit_errexit # what fails in $(…) ends the script, too

model=$1 dataset=$2 k=$3 folder=$4
url=${SURGEON_URL:-http://127.0.0.1:8000}
run=${RUN_ID:-$(hostname)-$$-$(date +%s)}
patience=${SURGEON_PATIENCE:-300}
scratch=$(mktemp -d)
answer=$scratch/answer headers=$scratch/headers
status='' job=''

# Reads a field of the JSON in a file: field error.detail FILE
field() {
    python3 -c '
import json, sys
value = json.load(open(sys.argv[2]))
for name in sys.argv[1].split("."):
    value = value.get(name) if isinstance(value, dict) else None
print("" if value is None else value if isinstance(value, str) else json.dumps(value))' "$1" "$2"
}

# What the service says of a request that it refuses: its detail, and each fault with its place.
refusal() {
    python3 -c '
import json, sys
problem = json.load(open(sys.argv[1]))
print("{title} ({code}): {detail}".format(**problem))
for fault in problem.get("errors", []):
    print("  " + fault.get("pointer", "") + " " + fault["detail"])' "$answer"
}

# Sends a request, again while the service is away or asks to come back later. The answer goes to
# $answer. What the service refuses is told in its own words, and ends the script.
ask() {
    # The API key comes by standard input: arguments are seen by every user of the machine.
    status=$(
        printf '%s' "${SURGEON_API_KEY:+header = \"Authorization: Bearer $SURGEON_API_KEY\"}" |
            curl --config - --silent --show-error --output "$answer" --write-out '%{http_code}' \
                --dump-header "$headers" --retry 1000 --retry-delay 2 \
                --retry-max-time "$patience" --retry-connrefused --retry-all-errors "$@"
    )
    if [ "$status" -ge 400 ]; then
        refusal >&2
        return 1
    fi
}

post() { # PATH BODY KEY
    ask "$url$1" --header 'Content-Type: application/json' --header "Idempotency-Key: $3" --data "$2"
}

# Starts a job, or takes up the one that this run has started; its id is $job. One that failed or
# was cancelled is tried again, once a call of this script.
start() { # COLLECTION BODY
    local digest key path=/v1/$1 body=$2
    digest=$(printf '%s %s' "$1" "$2" | sha256sum | cut -c 1-32)
    key="$run-$digest"
    while true; do
        post "$path" "$body" "$key"
        job=$(field id "$answer")
        grep -qi '^idempotent-replayed: true' "$headers" || break
        ask "$url/v1/jobs/$job"
        case $(field status "$answer") in failed | cancelled) ;; *) break ;; esac
        key="$run-$digest-$job" path=/v1/jobs/$job/retry body=
    done
    [ -z "${SURGEON_JOB_FILE:-}" ] || echo "$job" >"$SURGEON_JOB_FILE"
    echo "$job is $(field status "$answer")" >&2
}

# Waits until the job has ended; it is in the file $1 then. Fails with the problem's own words.
ended() {
    local tag=()
    while true; do
        # Answered as soon as there is news, and with 304 after five seconds without any: so long
        # a signal may have to wait for bash.
        ask "$url/v1/jobs/$job" "${tag[@]}" --header 'Prefer: wait=5'
        tag=(--header "If-None-Match: $(tr -d '\r' <"$headers" | sed -n 's/^etag: //Ip')")
        [ "$status" = 304 ] || cp "$answer" "$1"
        case $(field status "$1") in
        succeeded) return ;;
        failed | cancelled)
            echo "$job $(field status "$1"): $(field error.detail "$1") ($(field error.code "$1"))" >&2
            return 1
            ;;
        esac
        grep -qi '^preference-applied:' "$headers" || sleep 1
    done
}

stop() {
    [ -z "$job" ] || post "/v1/jobs/$job/cancel" '' "$run-cancel-$job-$$" || true
    exit 130
}
trap stop INT TERM
trap 'rm -rf "$scratch"' EXIT

if [ -f "$dataset" ]; then
    digest=$(sha256sum <"$dataset" | cut -c 1-32)
    ask "$url/v1/datasets" --header "Idempotency-Key: $run-$digest" --form "train=@$dataset"
    dataset=$(field id "$answer")
fi
quoted() { python3 -c 'import json, sys; print(json.dumps(sys.argv[1]))' "$1"; }
on="\"model\": $(quoted "$model"), \"dataset\": $(quoted "$dataset")"

start rankings "{$on}"
ended "$scratch/ranking"
selection="{\"policy\": \"top_k\", \"k\": $k, \"ranking\": \"$job\"}"

start finetunes "{$on, \"selection\": $selection, \"training\": ${SURGEON_TRAINING:-{\}}}"
tuned=$scratch/finetune
ended "$tuned"
job='' # nothing is left to be cancelled

checkpoint=$(field result.best_checkpoint "$tuned")
ask "$url/v1/checkpoints/$checkpoint/archive?form=full"
mkdir -p "$folder"
tar -x -C "$folder" -f "$answer"
echo "trained $(field result.trained_layers "$tuned"): $(field result.best.metrics "$tuned")"
echo "$checkpoint is in $folder"
