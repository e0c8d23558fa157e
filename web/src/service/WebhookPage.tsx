import { useCallback, useState } from "react";
import { api, bodyOf, idempotencyKey, type Schemas } from "../api/client";
import { useAction, type Action } from "../api/useAction";
import { usePolled, type Sending } from "../api/usePolled";
import type { PageProps } from "../app/pages";
import { address, go } from "../app/router";
import "../form/form.css";
import { ConfirmButton } from "../ui/ConfirmButton";
import { CopyText } from "../ui/CopyText";
import { DataTable } from "../ui/DataTable";
import { Failure } from "../ui/Failure";
import { Moment } from "../ui/Moment";
import { Pager } from "../ui/Pager";
import { ProblemBox } from "../ui/ProblemBox";
import { useTitle } from "../ui/useTitle";
import { SecretBox } from "./SecretBox";
import { shownSecret } from "./shownSecret";

const EVERY_MILLISECONDS = 3000;
type Hook = Schemas["WebhookView"];

export default function WebhookPage({ place }: PageProps) {
  const id = place.parts[1] ?? "";
  const ask = useCallback(
    (sending: Sending) => api.GET("/v1/webhooks/{webhook_id}", { params: { path: { webhook_id: id } }, ...sending }),
    [id],
  );
  const { data: hook, error, refresh } = usePolled(ask, () => EVERY_MILLISECONDS);
  const action = useAction();
  useTitle("Webhook");
  return (
    <>
      <p>
        <a href={address(["webhooks"])}>← All webhooks</a>
      </p>
      <SecretBox />
      <Failure error={error} />
      {hook && <HookCard hook={hook} action={action} refresh={refresh} />}
      {hook && <Deliveries hook={id} action={action} />}
    </>
  );
}

interface CardProps {
  hook: Hook;
  action: Action;
  refresh: () => void;
}

function HookCard({ hook, action: { busy, problem, run }, refresh }: CardProps) {
  const path = { webhook_id: hook.id };
  const header = { "Idempotency-Key": idempotencyKey() };
  const act = (what: () => Promise<unknown>) => void run(what).then(refresh);
  const test = () => api.POST("/v1/webhooks/{webhook_id}/test", { params: { path, header } });
  const toggle = () => api.PATCH("/v1/webhooks/{webhook_id}", { params: { path }, body: { enabled: !hook.enabled } });
  const rotate = async () => {
    const made = await bodyOf(api.POST("/v1/webhooks/{webhook_id}/rotate", { params: { path, header }, body: {} as Schemas["Rotation"] }));
    shownSecret.set({ what: `the secret of ${made.url}`, secret: made.secret });
  };
  const remove = async () => {
    await api.DELETE("/v1/webhooks/{webhook_id}", { params: { path } });
    go(address(["webhooks"]), { replace: true });
  };
  return (
    <section className="card">
      <h1>{hook.url}</h1>
      <p>
        {hook.enabled ? "Enabled" : `Disabled: ${hook.disabled_reason ?? "by hand"}`}; {hook.events.join(", ")}
        {hook.old_secret_expires_at && (
          <>
            ; the old secret also signs until <Moment at={hook.old_secret_expires_at} />
          </>
        )}
      </p>
      <div className="actions">
        <button disabled={busy} onClick={() => act(test)}>
          Send a test
        </button>
        <button disabled={busy} onClick={() => act(toggle)}>
          {hook.enabled ? "Disable" : "Enable"}
        </button>
        <ConfirmButton label="Rotate" question="Give it another secret?" disabled={busy} onConfirm={() => act(rotate)}>
          The old one also signs for another day, so that the receiver can change over.
        </ConfirmButton>
        <ConfirmButton label="Delete" question="Delete this webhook?" disabled={busy} onConfirm={() => void run(remove)}>
          Nothing is sent to it any more, and its deliveries are forgotten.
        </ConfirmButton>
      </div>
      {problem && <ProblemBox problem={problem} />}
    </section>
  );
}

function Deliveries({ hook, action: { busy, run } }: { hook: string; action: Action }) {
  const [cursor, setCursor] = useState<string>();
  const ask = useCallback(
    (sending: Sending) => {
      const params = { path: { webhook_id: hook }, query: { limit: 50, ...(cursor ? { cursor } : {}) } };
      return api.GET("/v1/webhooks/{webhook_id}/deliveries", { params, ...sending });
    },
    [hook, cursor],
  );
  const { data, error, refresh } = usePolled(ask, () => EVERY_MILLISECONDS);
  const replay = (delivery: string) => {
    const params = { path: { webhook_id: hook, delivery }, header: { "Idempotency-Key": idempotencyKey() } };
    void run(() => api.POST("/v1/webhooks/{webhook_id}/deliveries/{delivery}/replay", { params })).then(refresh);
  };
  const rows = (data?.data ?? []).map((delivery) => ({
    id: delivery.id,
    cells: [
      <Payload delivery={delivery} />,
      delivery.job ? <a href={address(["runs", delivery.job])}>{delivery.job}</a> : "–",
      delivery.status,
      lastAttempt(delivery.attempts as Schemas["DeliveryAttempt"][]),
      <Moment at={delivery.created_at} />,
      <button disabled={busy} onClick={() => replay(delivery.id)} aria-label={`Replay ${delivery.type} ${delivery.id}`}>
        Replay
      </button>,
    ],
  }));
  return (
    <section className="card">
      <h2>Deliveries</h2>
      <Failure error={error} />
      {data && (
        <DataTable
          title="Deliveries"
          columns={["Event", "Run", "State", "Last attempt", "Made", "Change"]}
          rows={rows}
          none="Nothing was sent yet."
        />
      )}
      <Pager cursor={cursor} next={data?.next_cursor} onMove={setCursor} />
    </section>
  );
}

function Payload({ delivery }: { delivery: Schemas["DeliveryView"] }) {
  return (
    <details>
      <summary>{delivery.type}</summary>
      <CopyText what={`the payload of ${delivery.id}`} text={JSON.stringify(delivery.payload, null, 2)} />
    </details>
  );
}

function lastAttempt(attempts: Schemas["DeliveryAttempt"][]): string {
  const last = attempts.at(-1);
  if (!last) return "not tried yet";
  return `${attempts.length}: ${last.error ?? `answered ${last.status ?? ""}`}`;
}
