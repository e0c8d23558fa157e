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
job=

# Reads a field of the JSON on standard input: field error.detail
field() {
    python3 -c '
import json, sys
value = json.load(sys.stdin)
for name in sys.argv[1].split("."):
    value = value.get(name) if isinstance(value, dict) else None
print("" if value is None else value if isinstance(value, str) else json.dumps(value))' "$1"
}

# Sends a request again while the service is away or asks to come back later. Prints the answer;
# what the service refuses is told in its own words, and ends the script.
ask() {
    local status
    status=$(
        # The key comes by standard input: arguments are seen by every user of the machine.
        printf '%s' "${SURGEON_API_KEY:+header = \"Authorization: Bearer $SURGEON_API_KEY\"}" |
            curl --config - --silent --show-error --output "$scratch/answer" --write-out '%{http_code}' \
                --dump-header "$scratch/headers" --retry 1000 --retry-delay 2 \
                --retry-max-time "$patience" --retry-connrefused --retry-all-errors "$@"
    )
    if [ "$status" -ge 400 ]; then
        echo "$(field title <"$scratch/answer") ($(field code <"$scratch/answer")):" \
            "$(field detail <"$scratch/answer")" >&2
        return 1
    fi
    [ "$status" = 304 ] || cat "$scratch/answer"
}

post() { # PATH BODY KEY
    ask "$url$1" --header 'Content-Type: application/json' --header "Idempotency-Key: $3" --data "$2"
}

# Starts a job, or takes up the one that this run has started. One that failed or was cancelled is
# tried again, once a run of this script. Leaves its id in $job.
start() { # COLLECTION BODY
    local digest key path=/v1/$1 body=$2 found status
    digest=$(printf '%s %s' "$1" "$2" | sha256sum | cut -c 1-32)
    key="$run-$digest"
    while true; do
        job=$(post "$path" "$body" "$key" | field id)
        grep -qi '^idempotent-replayed: true' "$scratch/headers" || break
        found=$(ask "$url/v1/jobs/$job")
        status=$(field status <<<"$found")
        case $status in failed | cancelled) ;; *) break ;; esac
        key="$run-$digest-$job" path=/v1/jobs/$job/retry body=
    done
    [ -z "${SURGEON_JOB_FILE:-}" ] || echo "$job" >"$SURGEON_JOB_FILE"
    echo "$job: started or taken up" >&2
}

# Waits until the job has ended, and prints it. Fails with the problem's own words. The service
# answers as soon as there is news, and 304 after five seconds without any: so long may a signal
# have to wait for bash.
ended() {
    local found='' tag=() status
    while true; do
        ask "$url/v1/jobs/$job" "${tag[@]}" --header 'Prefer: wait=5' >"$scratch/news"
        [ ! -s "$scratch/news" ] || found=$(cat "$scratch/news")
        status=$(field status <<<"$found")
        case $status in
        succeeded)
            echo "$found"
            return
            ;;
        failed | cancelled)
            echo "$job $status: $(field error.detail <<<"$found") ($(field error.code <<<"$found"))" >&2
            return 1
            ;;
        esac
        tag=(--header "If-None-Match: $(tr -d '\r' <"$scratch/headers" | sed -n 's/^etag: //Ip')")
        grep -qi '^preference-applied:' "$scratch/headers" || sleep 1
    done
}

stop() {
    [ -z "$job" ] || post "/v1/jobs/$job/cancel" '' "$run-cancel-$job-$$" >/dev/null || true
    exit 130
}
trap stop INT TERM
trap 'rm -rf "$scratch"' EXIT

if [ -f "$dataset" ]; then
    digest=$(sha256sum <"$dataset" | cut -c 1-32)
    dataset=$(ask "$url/v1/datasets" --header "Idempotency-Key: $run-$digest" \
        --form "train=@$dataset" | field id)
fi
quote() { python3 -c 'import json, sys; print(json.dumps(sys.argv[1]))' "$1"; }
on="\"model\": $(quote "$model"), \"dataset\": $(quote "$dataset")"

start rankings "{$on}"
ended >"$scratch/ranking"
selection="{\"policy\": \"top_k\", \"k\": $k, \"ranking\": \"$job\"}"

start finetunes "{$on, \"selection\": $selection, \"training\": ${SURGEON_TRAINING:-{\}}}"
ended >"$scratch/finetune"

checkpoint=$(field result.best_checkpoint <"$scratch/finetune")
mkdir -p "$folder"
ask "$url/v1/checkpoints/$checkpoint/archive?form=full" >"$scratch/model.tar"
tar -x -C "$folder" -f "$scratch/model.tar"
echo "trained $(field result.trained_layers <"$scratch/finetune"):" \
    "$(field result.best.metrics <"$scratch/finetune"); $checkpoint is in $folder"
