import type { Job } from "../../api/client";
import { duration } from "../../ui/format";
import { Moment } from "../../ui/Moment";

/** Every change of status, and how long each lasted. */
export function History({ job }: { job: Job }) {
  const changes = job.transitions;
  return (
    <section className="card">
      <h2>History</h2>
      <ol className="history" aria-label="History">
        {changes.map((change, index) => (
          <li key={change.at + change.status}>
            <span className={`status ${change.status}`}>{change.status}</span>{" "}
            <Moment at={change.at} />
            <span className="muted">
              {lasted(change.at, changes[index + 1]?.at)}
              {change.reason && ` · ${change.reason}`}
            </span>
          </li>
        ))}
      </ol>
    </section>
  );
}

function lasted(from: string, to: string | undefined): string {
  return to ? ` for ${duration((Date.parse(to) - Date.parse(from)) / 1000)}` : "";
}
