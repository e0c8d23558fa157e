import { useCallback } from "react";
import { api, type Job, type Schemas } from "../../../api/client";
import { useAction } from "../../../api/useAction";
import { usePolled, type Sending } from "../../../api/usePolled";
import { digits, metricTitle } from "../../../charts/names";
import { ConfirmButton } from "../../../ui/ConfirmButton";
import { DataTable } from "../../../ui/DataTable";
import { Failure } from "../../../ui/Failure";
import { bytes } from "../../../ui/format";
import { ProblemBox } from "../../../ui/ProblemBox";
import { DownloadButton } from "./DownloadButton";
import { ExportForm } from "./ExportForm";
import { TryIt } from "../trial/TryIt";

type Checkpoint = Schemas["CheckpointView"];

/** The checkpoints of a fine-tune, what can be done with each, and one to try. */
export function Checkpoints({ job }: { job: Job }) {
  const ask = useCallback(
    (sending: Sending) =>
      api.GET("/v1/jobs/{job_id}/checkpoints", { params: { path: { job_id: job.id } }, ...sending }),
    [job.id],
  );
  const { data, error, refresh } = usePolled(ask, () => (job.terminal ? 15000 : 3000));
  const { problem, run } = useAction();
  const checkpoints = data?.data ?? [];
  const act = (action: () => Promise<unknown>) => void run(action).then(refresh);
  return (
    <>
      <section className="card part">
        <h2>Checkpoints</h2>
        <Failure error={error} />
        {problem && <ProblemBox problem={problem} />}
        {data ? <List job={job} checkpoints={checkpoints} act={act} /> : <p className="muted">Loading …</p>}
        {checkpoints.length > 0 && <ExportForm checkpoints={checkpoints} />}
      </section>
      {checkpoints.length > 0 && <TryIt checkpoints={checkpoints} />}
    </>
  );
}

function none(job: Job): string {
  return job.terminal ? "It has none: none was written, or none was kept." : "There is none yet: the first comes with the first evaluation.";
}

interface ListProps {
  job: Job;
  checkpoints: readonly Checkpoint[];
  act: (action: () => Promise<unknown>) => void;
}

function List({ job, checkpoints, act }: ListProps) {
  const metrics = [...new Set(checkpoints.flatMap((each) => Object.keys(each.metrics)))];
  const columns = ["Step", "Epoch", ...metrics.map(metricTitle), "Form", "Size", "Actions"];
  const rows = checkpoints.map((each) => ({
    id: each.id,
    cells: [
      <Step checkpoint={each} />,
      digits(each.epoch),
      ...metrics.map((name) => digits(each.metrics[name])),
      each.form,
      bytes(each.bytes),
      <CheckpointActions checkpoint={each} ended={job.terminal} act={act} />,
    ],
  }));
  return <DataTable title="Checkpoints" columns={columns} rows={rows} none={none(job)} />;
}

function Step({ checkpoint }: { checkpoint: Checkpoint }) {
  return (
    <>
      {checkpoint.step}
      {checkpoint.is_best && <small> best</small>}
      {checkpoint.pinned && <small> pinned</small>}
    </>
  );
}

interface ActionProps {
  checkpoint: Checkpoint;
  /** Whether the job has ended; before that no checkpoint can be deleted. */
  ended: boolean;
  act: ListProps["act"];
}

function CheckpointActions({ checkpoint, ended, act }: ActionProps) {
  const params = { path: { checkpoint_id: checkpoint.id } };
  const at = `the checkpoint at step ${checkpoint.step}`;
  const pin = () =>
    checkpoint.pinned
      ? api.DELETE("/v1/checkpoints/{checkpoint_id}/pin", { params })
      : api.POST("/v1/checkpoints/{checkpoint_id}/pin", { params });
  const remove = () => api.DELETE("/v1/checkpoints/{checkpoint_id}", { params });
  const verb = checkpoint.pinned ? "Unpin" : "Pin";
  return (
    <div className="actions">
      <DownloadButton checkpoint={checkpoint} />
      <button aria-label={`${verb} ${at}`} onClick={() => act(pin)}>
        {verb}
      </button>
      {ended && !checkpoint.pinned && (
        <ConfirmButton label="Delete" name={`Delete ${at}`} question={`Delete ${at}?`} disabled={false} onConfirm={() => act(remove)}>
          Its files are removed for good. The run’s events and measurements stay.
        </ConfirmButton>
      )}
    </div>
  );
}
