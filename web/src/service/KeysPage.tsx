import { useCallback, useState, type SyntheticEvent } from "react";
import { api, bodyOf, idempotencyKey, type Schemas } from "../api/client";
import { session, takeKey } from "../api/session";
import { useAction } from "../api/useAction";
import { usePolled, type Sending } from "../api/usePolled";
import { Faults } from "../form/faults";
import { Field } from "../form/Field";
import "../form/form.css";
import { ConfirmButton } from "../ui/ConfirmButton";
import { DataTable } from "../ui/DataTable";
import { Failure } from "../ui/Failure";
import { Moment } from "../ui/Moment";
import { Pager } from "../ui/Pager";
import { ProblemBox } from "../ui/ProblemBox";
import { useTitle } from "../ui/useTitle";
import { SecretBox } from "./SecretBox";
import { shownSecret } from "./shownSecret";

const EVERY_MILLISECONDS = 10000;
const SCOPES = {
  read: "Sees runs and datasets.",
  submit: "Sees, makes, changes and deletes runs and datasets.",
  admin: "Everything, also keys, projects and webhooks.",
} as const;
type Scope = keyof typeof SCOPES;

export default function KeysPage() {
  useTitle("Keys");
  const [cursor, setCursor] = useState<string>();
  const ask = useCallback(
    (sending: Sending) => {
      const query = { limit: 50, ...(cursor ? { cursor } : {}) };
      return api.GET("/v1/keys", { params: { query }, ...sending });
    },
    [cursor],
  );
  const { data, error, refresh } = usePolled(ask, () => EVERY_MILLISECONDS);
  return (
    <>
      <h1>Keys</h1>
      <SecretBox />
      <Failure error={error} />
      {data && (
        <>
          <section className="card">
            <Keys keys={data.data} refresh={refresh} />
            <Pager cursor={cursor} next={data.next_cursor} onMove={setCursor} />
          </section>
          <KeyMaker refresh={refresh} />
        </>
      )}
    </>
  );
}

function Keys({ keys, refresh }: { keys: Schemas["KeyView"][]; refresh: () => void }) {
  const { busy, problem, run } = useAction();
  const revoke = async (id: string) => {
    await run(() => api.DELETE("/v1/keys/{key_id}", { params: { path: { key_id: id } } }));
    refresh();
  };
  return (
    <>
      {problem && <ProblemBox problem={problem} />}
      <DataTable
        title="Keys"
        columns={["Name", "Scopes", "State", "Made", "Expires", "Last used", "Id", "Change"]}
        none="There is no key: whoever reaches this service may do everything."
        rows={keys.map((key) => ({
          id: key.id,
          cells: [
            key.name ?? "–",
            key.scopes.join(", "),
            key.status,
            <Moment at={key.created_at} />,
            key.expires_at ? <Moment at={key.expires_at} /> : "never",
            key.last_used_at ? <Moment at={key.last_used_at} /> : "never",
            <code>{key.id}</code>,
            key.status === "active" ? (
              <ConfirmButton
                label="Revoke"
                question={`Revoke the key ${key.name ?? key.id}?`}
                disabled={busy}
                onConfirm={() => void revoke(key.id)}
              >
                Whoever uses it is refused from now on. This cannot be undone.
              </ConfirmButton>
            ) : (
              "–"
            ),
          ],
        }))}
      />
    </>
  );
}

const EMPTY = { name: "", scope: "submit" as Scope, days: "", project: "" };
type Draft = typeof EMPTY;

async function makeKey({ name, scope, days, project }: Draft): Promise<void> {
  const number = Number(days);
  const body = {
    scopes: [scope],
    ...(name ? { name } : {}),
    // What is no number goes as it is: the service says at the field what is wrong with it.
    ...(days ? { expires_in_days: Number.isFinite(number) ? number : (days as never) } : {}),
    ...(project ? { project } : {}),
  };
  const params = { header: { "Idempotency-Key": idempotencyKey() } };
  const made = await bodyOf(api.POST("/v1/keys", { body, params }));
  shownSecret.set({ what: `the key ${made.name ?? made.id}`, secret: made.key });
  // From the first key on, the service refuses whoever has none.
  if (session.get().key === null) takeKey(made.key);
}

function KeyMaker({ refresh }: { refresh: () => void }) {
  const { busy, problem, run } = useAction();
  const [draft, setDraft] = useState(EMPTY);
  const submit = (event: SyntheticEvent) => {
    event.preventDefault();
    void run(() => makeKey(draft)).then((made) => {
      if (made) setDraft(EMPTY);
      refresh();
    });
  };
  return (
    <Faults value={problem?.errors ?? []}>
      <form className="card" aria-labelledby="make-key" noValidate onSubmit={submit}>
        <h2 id="make-key">Make a key</h2>
        {session.get().key === null && (
          <p>
            Once there is a key, this service refuses whoever has none. This tab takes the first one: give it the
            scope admin.
          </p>
        )}
        <KeyFields draft={draft} set={(change) => setDraft({ ...draft, ...change })} />
        {problem && <ProblemBox problem={problem} />}
        <div className="actions">
          <button className="primary" type="submit" disabled={busy}>
            Make the key
          </button>
        </div>
      </form>
    </Faults>
  );
}

const TEXTS = [
  ["name", "/name", "Name", "What or whom it is for."],
  ["days", "/expires_in_days", "Expires in days", "Left empty, it never expires."],
  ["project", "/project", "Project", "For the operator: the id of another project."],
] as const;

function KeyFields({ draft, set }: { draft: Draft; set: (change: Partial<Draft>) => void }) {
  return (
    <div className="fields">
      <Field label="Scope" pointer="/scopes" help={SCOPES[draft.scope]}>
        {(named) => (
          <select {...named} value={draft.scope} onChange={(event) => set({ scope: event.target.value as Scope })}>
            {(Object.keys(SCOPES) as Scope[]).map((scope) => (
              <option key={scope}>{scope}</option>
            ))}
          </select>
        )}
      </Field>
      {TEXTS.map(([name, pointer, label, help]) => (
        <Field key={name} label={label} pointer={pointer} help={help}>
          {(named) => (
            <input
              {...named}
              value={draft[name]}
              spellCheck={false}
              autoComplete="off"
              onChange={(event) => set({ [name]: event.target.value })}
            />
          )}
        </Field>
      ))}
    </div>
  );
}
