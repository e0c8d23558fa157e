import { useCallback, useState, type SyntheticEvent } from "react";
import { api, bodyOf, idempotencyKey, type Schemas } from "../api/client";
import { useAction } from "../api/useAction";
import { usePolled, type Sending } from "../api/usePolled";
import { address } from "../app/router";
import { Faults } from "../form/faults";
import { Field } from "../form/Field";
import "../form/form.css";
import { DataTable } from "../ui/DataTable";
import { Failure } from "../ui/Failure";
import { Moment } from "../ui/Moment";
import { Pager } from "../ui/Pager";
import { ProblemBox } from "../ui/ProblemBox";
import { useTitle } from "../ui/useTitle";
import { SecretBox } from "./SecretBox";
import { shownSecret } from "./shownSecret";

const EVERY_MILLISECONDS = 10000;
const EVENTS = [
  "job.queued",
  "job.running",
  "job.paused",
  "job.succeeded",
  "job.failed",
  "job.cancelled",
  "checkpoint.created",
] as const satisfies readonly Schemas["EventType"][];
const USUAL: readonly Schemas["EventType"][] = ["job.succeeded", "job.failed", "job.cancelled"];

export default function WebhooksPage() {
  useTitle("Webhooks");
  const [cursor, setCursor] = useState<string>();
  const ask = useCallback(
    (sending: Sending) => {
      const query = { limit: 50, ...(cursor ? { cursor } : {}) };
      return api.GET("/v1/webhooks", { params: { query }, ...sending });
    },
    [cursor],
  );
  const { data, error, refresh } = usePolled(ask, () => EVERY_MILLISECONDS);
  const rows = (data?.data ?? []).map((hook) => ({
    id: hook.id,
    cells: [
      <a href={address(["webhooks", hook.id])}>{hook.url}</a>,
      hook.description ?? "–",
      hook.events.join(", "),
      hook.enabled ? "enabled" : `disabled: ${hook.disabled_reason ?? "by hand"}`,
      <Moment at={hook.created_at} />,
    ],
  }));
  return (
    <>
      <h1>Webhooks</h1>
      <SecretBox />
      <Failure error={error} />
      {data && (
        <>
          <section className="card">
            <DataTable
              title="Webhooks"
              columns={["Address", "Description", "Events", "State", "Made"]}
              rows={rows}
              none="There is no webhook: nobody is told of what happens."
            />
            <Pager cursor={cursor} next={data.next_cursor} onMove={setCursor} />
          </section>
          <WebhookMaker refresh={refresh} />
        </>
      )}
    </>
  );
}

function WebhookMaker({ refresh }: { refresh: () => void }) {
  const { busy, problem, run } = useAction();
  const [url, setUrl] = useState("");
  const [description, setDescription] = useState("");
  const [events, setEvents] = useState(USUAL);
  const make = async () => {
    const body = { url, events: [...events], ...(description ? { description } : {}) };
    const params = { header: { "Idempotency-Key": idempotencyKey() } };
    const made = await bodyOf(api.POST("/v1/webhooks", { body, params }));
    shownSecret.set({ what: `the secret of ${made.url}`, secret: made.secret });
    setUrl("");
    setDescription("");
    refresh();
  };
  const submit = (event: SyntheticEvent) => {
    event.preventDefault();
    void run(make);
  };
  return (
    <Faults value={problem?.errors ?? []}>
      <form className="card" aria-labelledby="make-webhook" noValidate onSubmit={submit}>
        <h2 id="make-webhook">Make a webhook</h2>
        <div className="fields">
          <Field label="Address" pointer="/url" help="What the service sends events to.">
            {(named) => (
              <input {...named} value={url} placeholder="https://example.com/hook" spellCheck={false} onChange={(event) => setUrl(event.target.value)} />
            )}
          </Field>
          <Field label="Description" pointer="/description">
            {(named) => <input {...named} value={description} onChange={(event) => setDescription(event.target.value)} />}
          </Field>
        </div>
        <EventChoice events={events} onChange={setEvents} />
        {problem && <ProblemBox problem={problem} />}
        <div className="actions">
          <button className="primary" type="submit" disabled={busy}>
            Make the webhook
          </button>
        </div>
      </form>
    </Faults>
  );
}

interface ChoiceProps {
  events: readonly Schemas["EventType"][];
  onChange: (events: readonly Schemas["EventType"][]) => void;
}

function EventChoice({ events, onChange }: ChoiceProps) {
  return (
    <fieldset>
      <legend>Events</legend>
      <div className="options">
        {EVENTS.map((event) => (
          <label key={event}>
            <input
              type="checkbox"
              checked={events.includes(event)}
              onChange={({ target }) =>
                onChange(target.checked ? [...events, event] : events.filter((each) => each !== event))
              }
            />
            {event}
          </label>
        ))}
      </div>
    </fieldset>
  );
}
