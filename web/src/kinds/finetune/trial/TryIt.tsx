import { useCallback, useState, type SyntheticEvent } from "react";
import { api, bodyOf, idempotencyKey, send, type Job, type Schemas } from "../../../api/client";
import { useAction } from "../../../api/useAction";
import { useOnce } from "../../../api/useOnce";
import type { PredictionResult } from "../../../charts/results";
import { Field } from "../../../form/Field";
import "../../../form/form.css";
import { Failure } from "../../../ui/Failure";
import { ProblemBox } from "../../../ui/ProblemBox";
import { best } from "../checkpoints/best";
import { ChooseCheckpoint } from "../checkpoints/ChooseCheckpoint";
import { Prediction } from "./Prediction";
import { fieldsOf, rowOf, type Column } from "./rows";

type Checkpoint = Schemas["CheckpointView"];

/** A row typed by the reader, and what a checkpoint says about it. */
export function TryIt({ checkpoints }: { checkpoints: readonly Checkpoint[] }) {
  const [chosen, setChosen] = useState<string | null>(null);
  const checkpoint = checkpoints.find((each) => each.id === chosen) ?? best(checkpoints);
  const { id, form } = checkpoint;
  const ask = useCallback((signal: AbortSignal) => readFields(id, form, signal), [id, form]);
  const { data: fields, error } = useOnce(ask);
  return (
    <section className="card part trial">
      <h2>Try it</h2>
      <ChooseCheckpoint checkpoints={checkpoints} chosen={id} choose={setChosen} />
      {error !== null && <p>What the checkpoint reads could not be looked up in its surgery.json.</p>}
      <Failure error={error} />
      {fields && <Question key={id} checkpoint={id} fields={fields} />}
    </section>
  );
}

/** What a checkpoint reads, from its record. The full form's comes from the service itself. */
async function readFields(id: string, form: string, signal: AbortSignal): Promise<Column[]> {
  const query = form === "delta" ? "?form=full" : "";
  const path = `./v1/checkpoints/${encodeURIComponent(id)}/files/surgery.json${query}`;
  // A store on another host is not asked: the page's policy forbids it.
  const answer = await send(new Request(path, { signal, redirect: "manual" }));
  const record = (await answer.json()) as { inputs?: string[]; columns?: Record<string, string | string[]> };
  return fieldsOf({ parts: record.inputs ?? ["text"], columns: record.columns ?? {} });
}

const HINTS: Readonly<Record<Column["kind"], string>> = {
  text: "",
  words: "Words, parted by spaces.",
  lines: "A choice on each line.",
};

function Question({ checkpoint, fields }: { checkpoint: string; fields: readonly Column[] }) {
  const [typed, setTyped] = useState<Readonly<Record<string, string>>>({});
  const { busy, problem, run } = useAction();
  const [result, setResult] = useState<PredictionResult | null>(null);
  const ask = async () => setResult(await predicted(checkpoint, rowOf(fields, typed)));
  const submit = (event: SyntheticEvent) => {
    event.preventDefault();
    setResult(null);
    void run(ask);
  };
  return (
    <form onSubmit={submit}>
      {fields.map(({ column, kind }) => (
        <Field key={column} label={column} help={HINTS[kind]}>
          {(named) => (
            <textarea
              {...named}
              value={typed[column] ?? ""}
              onChange={(event) => setTyped({ ...typed, [column]: event.target.value })}
            />
          )}
        </Field>
      ))}
      <div className="actions">
        <button className="primary" type="submit" disabled={busy}>
          {busy ? "Asking …" : "Predict"}
        </button>
      </div>
      {problem && <ProblemBox problem={problem} />}
      <div aria-live="polite">{result && <Prediction result={result} />}</div>
    </form>
  );
}

/** Asks, and waits for the answer as long as it takes. Throws a Problem. */
async function predicted(checkpoint: string, row: object): Promise<PredictionResult> {
  const header = { prefer: "wait=30", "Idempotency-Key": idempotencyKey() };
  const body = { checkpoint, rows: [row], top: 10 } as unknown as Schemas["PredictionSpec"];
  let job = (await bodyOf(api.POST("/v1/predictions", { params: { header }, body }))) as Job;
  while (!job.terminal) {
    const params = { path: { job_id: job.id }, header: { prefer: "wait=30" } };
    job = (await bodyOf(api.GET("/v1/jobs/{job_id}", { params }))) as Job;
  }
  if (!job.result) throw new Error(job.error?.detail ?? `the prediction ended as ${job.status}`);
  return job.result as PredictionResult;
}
