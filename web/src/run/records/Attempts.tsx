import { useCallback } from "react";
import { api, type Job } from "../../api/client";
import { usePolled, type Sending } from "../../api/usePolled";
import { Failure } from "../../ui/Failure";
import { Moment } from "../../ui/Moment";

/** Who has tried the job, and how each attempt ended. */
export function Attempts({ job }: { job: Job }) {
  const ask = useCallback(
    (sending: Sending) =>
      api.GET("/v1/jobs/{job_id}/attempts", { params: { path: { job_id: job.id } }, ...sending }),
    [job.id],
  );
  const { data, error } = usePolled(ask, () => (job.terminal ? 15000 : 3000));
  const attempts = data?.data ?? [];
  return (
    <section className="card">
      <h2>Attempts</h2>
      <Failure error={error} />
      {attempts.length === 0 ? (
        <p className="muted">No worker has tried it.</p>
      ) : (
        <div className="scroll" tabIndex={0} role="region" aria-label="Attempts">
          <table>
            <thead>
              <tr>
                {["No.", "Worker", "Began", "Ended", "Outcome"].map((title) => (
                  <th scope="col" key={title}>
                    {title}
                  </th>
                ))}
              </tr>
            </thead>
            <tbody>
              {attempts.map((attempt) => (
                <tr key={attempt.number}>
                  <td>{attempt.number}</td>
                  <td>{attempt.worker}</td>
                  <td>
                    <Moment at={attempt.started_at} />
                  </td>
                  <td>
                    <Moment at={attempt.ended_at} />
                  </td>
                  <td>
                    {attempt.outcome ?? "running"}
                    {attempt.error && <small> {detailOf(attempt.error)}</small>}
                  </td>
                </tr>
              ))}
            </tbody>
          </table>
        </div>
      )}
    </section>
  );
}

function detailOf(error: Readonly<Record<string, unknown>>): string {
  return typeof error["detail"] === "string" ? error["detail"] : "";
}
