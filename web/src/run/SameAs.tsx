import type { Job } from "../api/client";
import { CopyText } from "../ui/CopyText";
import { curlOf, pythonOf, type Sent } from "./commands";

/** The requests that read this job and submit it again, to be sent from elsewhere. */
export function SameAs({ job }: { job: Job }) {
  const read = { method: "GET", path: `/v1/jobs/${job.id}` };
  return (
    <>
      <Commands title="The same as curl" of={curlOf} read={read} submit={submission(job)} />
      <Commands title="The same as Python" of={pythonOf} read={read} submit={submission(job)} />
    </>
  );
}

/** The request that the job was made by, with every default filled in. */
export function submission(job: Pick<Job, "kind" | "spec" | "links">): Sent {
  if (job.kind !== "export") {
    const path = (job.links["self"] ?? "").replace(/\/[^/]*$/, "");
    return { method: "POST", path, body: job.spec };
  }
  // The address of an export names the checkpoint, and its body does not.
  const { checkpoint, ...body } = job.spec;
  return { method: "POST", path: `/v1/checkpoints/${String(checkpoint)}/exports`, body };
}

interface Props {
  title: string;
  of: (sent: Sent) => string;
  read: Sent;
  submit: Sent;
}

function Commands({ title, of, read, submit }: Props) {
  return (
    <details>
      <summary>{title}</summary>
      <p>Read this run:</p>
      <CopyText what={`${title}: read this run`} text={of(read)} />
      <p>Submit it:</p>
      <CopyText what={`${title}: submit it`} text={of(submit)} />
    </details>
  );
}
