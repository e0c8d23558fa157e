import { useCallback, useState } from "react";
import { api, type Schemas } from "../api/client";
import { usePolled, type Sending } from "../api/usePolled";
import { Field } from "../form/Field";
import "../form/form.css";
import { DataTable } from "../ui/DataTable";
import { Failure } from "../ui/Failure";
import { bytes, day, duration, wholeNumber } from "../ui/format";
import { useTitle } from "../ui/useTitle";

const EVERY_MILLISECONDS = 10000;
const LIMITS = {
  requests_per_minute: "Requests a minute",
  queued_jobs: "Queued jobs",
  running_jobs: "Running jobs",
  device_hours_per_month: "Hours of devices a month",
  stored_bytes: "Stored bytes",
} as const;
type LimitName = keyof typeof LIMITS;
type Period = "day" | "month";
const askLimits = (sending: Sending) => api.GET("/v1/limits", { ...sending });

export default function UsagePage() {
  useTitle("Usage and limits");
  const { data, error } = usePolled(askLimits, () => EVERY_MILLISECONDS);
  return (
    <>
      <h1>Usage and limits</h1>
      <Failure error={error} />
      <section className="card">
        <h2>Limits</h2>
        {data && <Limits limits={data} />}
      </section>
      <Usage />
    </>
  );
}

function Limits({ limits }: { limits: Schemas["LimitsView"] }) {
  return (
    <DataTable
      title="Limits"
      columns={["Limit", "Used", "Of", "What frees it"]}
      none=""
      rows={(Object.keys(LIMITS) as LimitName[]).map((name) => {
        const { limit, used, frees } = limits[name];
        return {
          id: name,
          cells: [LIMITS[name], amount(name, used), limit == null ? "no limit" : amount(name, limit), frees],
        };
      })}
    />
  );
}

function amount(name: LimitName, value: number | null): string {
  if (value === null) return "not counted";
  if (name === "stored_bytes") return bytes(value);
  return value.toLocaleString(undefined, { maximumFractionDigits: 2 });
}

function Usage() {
  const [by, setBy] = useState<Period>("day");
  const [from, setFrom] = useState("");
  const [to, setTo] = useState("");
  const ask = useCallback(
    (sending: Sending) => {
      const query = { by, ...(from ? { from } : {}), ...(to ? { to } : {}) };
      return api.GET("/v1/usage", { params: { query }, ...sending });
    },
    [by, from, to],
  );
  const { data, error } = usePolled(ask, () => EVERY_MILLISECONDS);
  return (
    <section className="card" aria-labelledby="usage-title">
      <h2 id="usage-title">Usage</h2>
      <div className="fields">
        <Field label="From">
          {(named) => <input {...named} type="date" value={from} onChange={(event) => setFrom(event.target.value)} />}
        </Field>
        <Field label="To">
          {(named) => <input {...named} type="date" value={to} onChange={(event) => setTo(event.target.value)} />}
        </Field>
        <Field label="By">
          {(named) => (
            <select {...named} value={by} onChange={(event) => setBy(event.target.value as Period)}>
              <option value="day">day</option>
              <option value="month">month</option>
            </select>
          )}
        </Field>
      </div>
      <Failure error={error} />
      {data && <UsageTable usage={data} />}
    </section>
  );
}

function UsageTable({ usage }: { usage: Schemas["UsageView"] }) {
  const cells = (row: Schemas["TotalView"]) => [
    wholeNumber(row.jobs),
    Object.entries(row.worker_seconds)
      .map(([device, seconds]) => `${device} ${duration(seconds)}`)
      .join(", ") || "–",
    bytes(row.stored_bytes),
  ];
  const rows = usage.data.map((row) => ({
    id: `${row.period} ${row.kind}`,
    cells: [day(row.period), row.kind, ...cells(row)],
  }));
  const total = { id: "total", cells: [<strong>Total</strong>, "", ...cells(usage.total)] };
  return (
    <>
      <p className="muted">
        {day(usage.from)} to {day(usage.to)}
      </p>
      <DataTable
        title="Usage by period"
        columns={["Period", "Kind", "Runs", "Time of devices", "Stored"]}
        rows={[...rows, total]}
        none=""
      />
    </>
  );
}
