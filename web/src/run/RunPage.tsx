import { Suspense, useCallback } from "react";
import { api, type Job } from "../api/client";
import { usePolled, type Sending } from "../api/usePolled";
import type { PageProps } from "../app/pages";
import { address } from "../app/router";
import { Failure } from "../ui/Failure";
import { CopyText } from "../ui/CopyText";
import { ProblemBox } from "../ui/ProblemBox";
import { useTitle } from "../ui/useTitle";
import { Attempts } from "./records/Attempts";
import { Events } from "./records/Events";
import { History } from "./records/History";
import { PARTS } from "../kinds/parts";
import { Logs } from "./records/Logs";
import { NextSteps, Warnings } from "./Notes";
import { RunHeader } from "./RunHeader";
import { SameAs } from "./SameAs";
import { UsageCard } from "./records/UsageCard";

const RUNNING_MILLISECONDS = 3000; // the event stream tells of changes before that
const ENDED_MILLISECONDS = 15000;

export default function RunPage({ place }: PageProps) {
  const id = place.parts[1] ?? "";
  const ask = useCallback(
    (sending: Sending) => api.GET("/v1/jobs/{job_id}", { params: { path: { job_id: id } }, ...sending }),
    [id],
  );
  const { data: job, error, refresh } = usePolled(ask, (known) =>
    known?.terminal ? ENDED_MILLISECONDS : RUNNING_MILLISECONDS,
  );
  useTitle(job?.name ?? id);
  return (
    <>
      <p>
        <a href={address(["runs"])}>← All runs</a>
      </p>
      <Failure error={error} />
      {job ? <Run job={job as Job} refresh={refresh} /> : error === null && <p className="muted">Loading …</p>}
    </>
  );
}

/** The parts of a run's page. Those of its kind alone come from `kinds.ts`, above the records. */
function Run({ job, refresh }: { job: Job; refresh: () => void }) {
  const Part = PARTS[job.kind];
  const recorded = job.kind !== "comparison"; // whose children have the attempts and logs
  return (
    <>
      <RunHeader job={job} refresh={refresh} />
      {job.error && <ProblemBox problem={job.error} />}
      <Warnings warnings={job.warnings} />
      {Part && (
        <Suspense fallback={<p className="muted">Loading …</p>}>
          <Part job={job} />
        </Suspense>
      )}
      <NextSteps steps={job.next_steps} />
      <div className="columns">
        <History job={job} />
        <UsageCard usage={job.usage} />
      </div>
      {recorded && <Attempts job={job} />}
      <Events id={job.id} onChange={refresh} />
      {recorded && <Logs job={job} />}
      <Documents job={job} />
    </>
  );
}

function Documents({ job }: { job: Job }) {
  return (
    <section className="card" aria-label="Documents">
      <details>
        <summary>Specification</summary>
        <CopyText what="the specification" text={JSON.stringify(job.spec, null, 2)} />
      </details>
      <details>
        <summary>What it resolved to</summary>
        <CopyText what="what it resolved to" text={JSON.stringify(job.resolved, null, 2)} />
      </details>
      {job.result && (
        <details>
          <summary>Result</summary>
          <CopyText what="the result" text={JSON.stringify(job.result, null, 2)} />
        </details>
      )}
      <SameAs job={job} />
    </section>
  );
}
