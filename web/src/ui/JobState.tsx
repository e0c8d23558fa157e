import type { Job } from "../api/client";
import { duration, percent, wholeNumber } from "./format";

type State = Pick<
  Job,
  "status" | "cancel_requested" | "pause_requested" | "phase" | "progress" | "queue" | "terminal"
>;

/** The status in words: colour alone tells nobody anything. */
export function Status({ job }: { job: State }) {
  return <span className={`status ${job.status}`}>{statusWords(job)}</span>;
}

function statusWords(job: State): string {
  if (job.terminal) return job.status;
  if (job.cancel_requested) return "cancelling";
  if (job.pause_requested) return "pausing";
  return job.status;
}

/** How far a job is and how long it will take; nothing for one that has ended. */
export function Progress({ job, long = false }: { job: State; long?: boolean }) {
  const { progress, queue } = job;
  if (job.status === "queued" && queue) {
    return <span className="muted">{queue.ahead ? `${wholeNumber(queue.ahead)} ahead` : "next"}</span>;
  }
  if (job.terminal || progress?.percent == null) return null;
  const words = [percent(progress.percent), job.phase, long && steps(progress), left(progress)];
  return (
    <span className="progress">
      <progress max={100} value={progress.percent} aria-label="Progress" />
      <span>{words.filter(Boolean).join(" · ")}</span>
    </span>
  );
}

/** How long a job took that has ended; nothing for one that never began. */
export function Took({ job }: { job: Pick<Job, "started_at" | "finished_at"> }) {
  if (!job.started_at || !job.finished_at) return null;
  const seconds = (Date.parse(job.finished_at) - Date.parse(job.started_at)) / 1000;
  return <span className="muted">took {duration(seconds)}</span>;
}

type Numbers = NonNullable<Job["progress"]>;

function steps({ step, total_steps: total, unit }: Numbers): string {
  if (step == null || total == null || unit === "phases") return "";
  return `${wholeNumber(step)} of ${wholeNumber(total)} ${unit ?? ""}`;
}

function left({ eta_seconds: seconds }: Numbers): string {
  return seconds == null ? "" : `${duration(seconds)} left`;
}
