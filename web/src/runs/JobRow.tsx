import { memo } from "react";
import { address } from "../app/router";
import { Moment } from "../ui/Moment";
import { Progress, Status } from "../ui/JobState";
import { duration } from "../ui/format";
import { datasetOf, modelOf } from "../ui/subject";
import type { ListedJob } from "./useListing";

export const COLUMNS = ["Run", "Kind", "Status", "Progress", "Model and dataset", "Submitted"];

/** The cells of one run. */
export const JobCells = memo(function JobCells({ job }: { job: ListedJob }) {
  return (
    <>
      <div role="cell" className="run-name">
        <a href={address(["runs", job.id])}>{job.name ?? job.id}</a>
        {job.name && <small className="muted">{job.id}</small>}
      </div>
      <div role="cell">{job.kind}</div>
      <div role="cell">
        <Status job={job} />
      </div>
      <div role="cell">{job.terminal ? <Took job={job} /> : <Progress job={job} />}</div>
      <div role="cell" className="subject">
        <span>{modelOf(job.spec)}</span>
        <small className="muted">{datasetOf(job.spec)}</small>
      </div>
      <div role="cell">
        <Moment at={job.created_at} />
      </div>
    </>
  );
});

function Took({ job }: { job: ListedJob }) {
  if (!job.started_at || !job.finished_at) return null;
  const seconds = (Date.parse(job.finished_at) - Date.parse(job.started_at)) / 1000;
  return <span className="muted">took {duration(seconds)}</span>;
}
