import type { Job } from "../api/client";
import { address } from "../app/router";
import { Moment } from "../ui/Moment";
import { Progress, Status } from "../ui/JobState";
import { datasetOf, modelOf } from "../ui/subject";
import { Actions } from "./Actions";

export function RunHeader({ job, refresh }: { job: Job; refresh: () => void }) {
  return (
    <section className="card head" aria-labelledby="run-title">
      <h1 id="run-title">{job.name ?? job.id}</h1>
      <p className="line" aria-live="polite">
        <Status job={job} />
        <span>{job.kind}</span>
        {job.cached && <span className="muted">answered from a stored result</span>}
      </p>
      <Progress job={job} long />
      <Actions job={job} refresh={refresh} />
      <Facts job={job} />
    </section>
  );
}

function Facts({ job }: { job: Job }) {
  const labels = Object.entries(job.metadata);
  return (
    <dl className="facts">
      <Fact name="Id">
        <code>{job.id}</code>
      </Fact>
      <Fact name="Model">{modelOf(job.spec)}</Fact>
      <Fact name="Dataset">{datasetOf(job.spec)}</Fact>
      <Fact name="Submitted">
        <Moment at={job.created_at} />
      </Fact>
      <Fact name="Attempt">
        {job.attempt} of at most {job.max_attempts}
      </Fact>
      <Fact name="Labels">{labels.map(([key, value]) => `${key}=${value}`).join(", ")}</Fact>
      <Related name="Created by" id={job.parent} />
      <Related name="Retry of" id={job.retry_of} />
      <Related name="Result of" id={job.result_of} />
      <Related name="Waits for" id={job.waits_for} />
    </dl>
  );
}

/** A name and a value; nothing where there is no value. */
function Fact({ name, children }: { name: string; children: React.ReactNode }) {
  if (children === "") return null;
  return (
    <div>
      <dt>{name}</dt>
      <dd>{children}</dd>
    </div>
  );
}

function Related({ name, id }: { name: string; id: string | null | undefined }) {
  if (!id) return null;
  return (
    <Fact name={name}>
      <a href={address(["runs", id])}>{id}</a>
    </Fact>
  );
}
