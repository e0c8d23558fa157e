import { memo } from "react";
import { address } from "../app/router";
import { Moment } from "../ui/Moment";
import { Progress, Status, Took } from "../ui/JobState";
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
