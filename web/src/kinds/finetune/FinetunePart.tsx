import { useMemo } from "react";
import type { Job } from "../../api/client";
import { Bump } from "../../charts/Bump";
import { orderOf } from "../../charts/ranks";
import type { FinetuneResult } from "../../charts/results";
import type { PartProps } from "../parts";
import { Checkpoints } from "./checkpoints/Checkpoints";
import { Curves } from "./curves/Curves";
import { Encoder } from "./Encoder";
import "../../charts/charts.css";

/** What a fine-tune trains, how it learns, and what it has written. */
export default function FinetunePart({ job }: PartProps) {
  return (
    <>
      <section className="card part">
        <h2>What trains</h2>
        <Encoder job={job} />
        <Stability job={job} />
      </section>
      <Curves job={job} />
      <Checkpoints job={job} />
    </>
  );
}

/** How the order of the layers changed while it trained, where that was tracked. */
function Stability({ job }: { job: Job }) {
  const result = job.result as FinetuneResult | null;
  const orders = useMemo(() => (result ? ordersOf(result) : []), [result]);
  if (job.spec["track_ranking"] !== true) return null;
  if (orders.length < 2) {
    return <p className="muted">How the ranking changed is shown when the run has succeeded.</p>;
  }
  return (
    <Bump title="The ranking during training" label="Evaluation after epoch" orders={orders}>
      Layers by their score before the first step and at every evaluation; a line that stays level is a
      layer whose place training did not change.
    </Bump>
  );
}

function ordersOf(result: FinetuneResult): (readonly [string, readonly string[]])[] {
  const later = result.epochs.flatMap((report) =>
    report.ranking ? [[String(Number(report.epoch.toFixed(2))), orderOf(report.ranking.scores)] as const] : [],
  );
  if (!result.ranking_at_start) return later;
  return [["start", orderOf(result.ranking_at_start)] as const, ...later];
}
