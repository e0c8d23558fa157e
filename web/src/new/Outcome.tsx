import type { ReactNode } from "react";
import type { Schemas } from "../api/client";
import { address } from "../app/router";
import { DataTable } from "../ui/DataTable";
import { bytes, duration, wholeNumber } from "../ui/format";
import type { Checked } from "./submit";

/** What a dry run has answered: that the service would take the request, and what it will cost. */
export function Outcome({ checked, repeated }: { checked: Checked; repeated: number }) {
  const { dry, estimate } = checked;
  return (
    <section className="card" aria-label="Dry run" aria-live="polite">
      <h2 className="good">The service would take this request</h2>
      {dry.cached && <p>Its result is stored already and is answered at once.</p>}
      {dry.waits_for && (
        <p>
          It waits for an equal run: <a href={address(["runs", dry.waits_for])}>{dry.waits_for}</a>
        </p>
      )}
      {dry.warnings.map((warning) => (
        <div className="warning" key={warning.code + warning.message}>
          <p>{warning.message}</p>
          {warning.remedy && <p>{warning.remedy}</p>}
        </div>
      ))}
      {estimate ? (
        <Cost estimate={estimate} repeated={repeated} />
      ) : (
        <p className="muted">A ranking is not estimated: it reads each of its samples once.</p>
      )}
    </section>
  );
}

function Cost({ estimate, repeated }: { estimate: Schemas["Estimate"]; repeated: number }) {
  const { throughput, search } = estimate;
  return (
    <>
      <h3>Estimate{repeated > 1 && ` of one of its ${wholeNumber(repeated)} runs`}</h3>
      <DataTable
        title="Estimate"
        columns={["Layers", "Policy", "Trained parameters", "Memory", "Checkpoint", "Steps", "Time"]}
        none="There is nothing to estimate."
        rows={estimate.rows.map((row) => ({
          id: `${row.policy} ${row.k ?? ""} ${row.position}`,
          cells: [
            row.k ?? "–",
            row.position === "exact" ? row.policy : `${row.policy}, ${row.position} layers`,
            known(row.trainable_parameters, wholeNumber),
            known(row.peak_memory_bytes, bytes),
            known(row.checkpoint_bytes, bytes),
            known(row.steps, wholeNumber),
            known(row.seconds?.total, duration),
          ],
        }))}
      />
      {search && (
        <p>
          The search: {wholeNumber(search.candidates)} candidates; budget {known(search.budget_seconds, duration)},
          memory {known(search.peak_memory_bytes, bytes)}.
        </p>
      )}
      <p className="muted">
        Times are {throughput.basis === "none" ? "not known, as nothing was measured yet" : throughput.basis}:{" "}
        {throughput.accuracy}.
      </p>
    </>
  );
}

function known(value: number | null | undefined, words: (value: number) => string): ReactNode {
  return value == null ? "not known" : words(value);
}
