import { api, bodyOf, idempotencyKey, type Job } from "../api/client";
import { useAction } from "../api/useAction";
import { address, go } from "../app/router";
import { ConfirmButton } from "../ui/ConfirmButton";
import { ProblemBox } from "../ui/ProblemBox";

interface Props {
  job: Job;
  refresh: () => void;
}

/** What can be asked of the job now: its links say so, and a job that has ended can be deleted. */
export function Actions({ job, refresh }: Props) {
  const { busy, problem, run } = useAction();
  const act = (action: () => Promise<unknown>) => void run(action).then(refresh);
  const path = { job_id: job.id };
  const header = { "Idempotency-Key": idempotencyKey() };
  const pause = () => api.POST("/v1/jobs/{job_id}/pause", { params: { path } });
  const resume = () => api.POST("/v1/jobs/{job_id}/resume", { params: { path } });
  const cancel = () => api.POST("/v1/jobs/{job_id}/cancel", { params: { path } });
  const retry = async () => {
    const made = await bodyOf(api.POST("/v1/jobs/{job_id}/retry", { params: { path, header } }));
    go(address(["runs", made.id]));
  };
  const remove = async () => {
    await api.DELETE("/v1/jobs/{job_id}", { params: { path } });
    go(address(["runs"]), { replace: true });
  };
  const plain = { pause, resume, retry };
  return (
    <>
      <div className="actions">
        {(["pause", "resume", "retry"] as const).map(
          (name) =>
            name in job.links && (
              <button key={name} disabled={busy} onClick={() => act(plain[name])}>
                {capital(name)}
              </button>
            ),
        )}
        {"cancel" in job.links && (
          <ConfirmButton label="Cancel" question="Cancel this run?" disabled={busy} onConfirm={() => act(cancel)}>
            It ends after its current step. A cancelled run can be retried, not resumed.
          </ConfirmButton>
        )}
        {job.terminal && !job.parent?.startsWith("cmp_") && (
          <ConfirmButton label="Delete" question="Delete this run?" disabled={busy} onConfirm={() => act(remove)}>
            Its result, events, logs and checkpoints are removed for good.
          </ConfirmButton>
        )}
      </div>
      {problem && <ProblemBox problem={problem} />}
    </>
  );
}

function capital(word: string): string {
  return word.charAt(0).toUpperCase() + word.slice(1);
}
