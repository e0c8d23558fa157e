import type { Schemas } from "../../api/client";
import { bytes, duration } from "../../ui/format";

export function UsageCard({ usage }: { usage: Schemas["JobUsage"] }) {
  const seconds = Object.entries(usage.worker_seconds);
  const peaks = Object.entries(usage.peak_memory_bytes);
  return (
    <section className="card">
      <h2>Usage</h2>
      <dl className="facts">
        {seconds.map(([device, spent]) => (
          <div key={device}>
            <dt>Worker time</dt>
            <dd>
              {duration(spent)} on {device}
            </dd>
          </div>
        ))}
        {peaks.map(([where, most]) =>
          typeof most === "number" ? (
            <div key={where}>
              <dt>Most memory, {where}</dt>
              <dd>{bytes(most)}</dd>
            </div>
          ) : null,
        )}
        <div>
          <dt>Stored</dt>
          <dd>{bytes(usage.stored_bytes)}</dd>
        </div>
      </dl>
    </section>
  );
}
