import { useCallback, useEffect, useRef, useState, type SyntheticEvent } from "react";
import { api, bodyOf, idempotencyKey } from "../api/client";
import { useAction } from "../api/useAction";
import { useOnce } from "../api/useOnce";
import type { PageProps } from "../app/pages";
import { address, go } from "../app/router";
import { Faults } from "../form/faults";
import "../form/form.css";
import { fieldInfo } from "../form/openapi";
import { valueAt, withValue, type Body } from "../form/pointer";
import { SchemaField } from "../form/SchemaField";
import { Failure } from "../ui/Failure";
import { ProblemBox } from "../ui/ProblemBox";
import { useTitle } from "../ui/useTitle";
import { Arms } from "./Arms";
import { DatasetPart } from "./DatasetPart";
import { GROUPS } from "./fields";
import { loadSchemas } from "./loadSchemas";
import { ModelPart } from "./ModelPart";
import { Outcome } from "./Outcome";
import { asKind, beginning, FEW, fromRanking, KINDS, kindOf, SCHEMAS, type Kind } from "./request";
import { RequestText } from "./RequestText";
import { check, submit, type Checked } from "./submit";

interface Start {
  kind: Kind;
  body: Body;
}

/** `#/new`; `?kind=finetune&ranking=ID&k=3` trains the top layers of a ranking. */
export default function NewRunPage({ place }: PageProps) {
  useTitle("New run");
  const { query } = place;
  const asked = query.toString();
  const load = useCallback(
    async (signal: AbortSignal) => {
      const [schemas, start] = await Promise.all([loadSchemas(signal), startOf(new URLSearchParams(asked), signal)]);
      return { schemas, start };
    },
    [asked],
  );
  const { data, error } = useOnce(load);
  return (
    <>
      <h1>New run</h1>
      <Failure error={error} />
      {data ? (
        <RunForm key={asked} schemas={data.schemas} start={data.start} />
      ) : (
        error === null && <p className="muted">Loading …</p>
      )}
    </>
  );
}

async function startOf(query: URLSearchParams, signal: AbortSignal): Promise<Start> {
  const kind = kindOf(query.get("kind"));
  const ranking = query.get("ranking");
  if (ranking) {
    const path = { job_id: ranking };
    const job = await bodyOf(api.GET("/v1/jobs/{job_id}", { params: { path }, signal }));
    const numbers = [Number(query.get("k")), valueAt(job.result, "/recommended_k")];
    const k = numbers.find((each) => typeof each === "number" && Number.isInteger(each) && each > 0);
    return { kind, body: fromRanking(kind, job.id, job.spec, typeof k === "number" ? k : FEW) };
  }
  const given = { model: query.get("model") ?? "", dataset: query.get("dataset") ?? "" };
  return { kind, body: { ...beginning(kind), ...given } };
}

/** The form: its fields and its JSON are two ways to edit one request. */
function RunForm({ schemas, start }: { schemas: Body; start: Start }) {
  const [{ kind, body }, setRequest] = useState(start);
  const [valid, setValid] = useState(true);
  const sending = useSending(kind, body);
  const form = useRef<HTMLFormElement>(null);
  const set = (pointer: string) => (value: unknown) =>
    setRequest(({ kind: same, body: old }) => ({ kind: same, body: withValue(old, pointer, value) }));
  useEffect(() => {
    if (sending.problem) form.current?.querySelector<HTMLElement>("[aria-invalid=true]")?.focus();
  }, [sending.problem]);
  const textAt = (name: string) => (typeof body[name] === "string" ? body[name] : "");
  return (
    <Faults value={sending.problem?.errors ?? []}>
      <form ref={form} noValidate onSubmit={sending.onCheck}>
        <KindChoice kind={kind} onChange={(to) => setRequest({ kind: to, body: asKind(body, kind, to) })} />
        <ModelPart model={textAt("model")} onChange={set("/model")} />
        <DatasetPart dataset={body["dataset"]} model={textAt("model")} onChange={set("/dataset")} />
        {kind === "comparison" && <Arms schemas={schemas} arms={body["arms"]} onChange={set("/arms")} />}
        <Options schemas={schemas} kind={kind} body={body} set={set} />
        <RequestText
          body={body}
          onValid={setValid}
          onChange={(changed) => setRequest({ kind, body: changed })}
        />
        {sending.problem && <ProblemBox problem={sending.problem} />}
        {sending.checked && <Outcome checked={sending.checked} repeated={runsOf(kind, body)} />}
        <div className="actions">
          <button type="submit" className={sending.checked ? "" : "primary"} disabled={sending.busy || !valid}>
            Check
          </button>
          {sending.checked && (
            <button type="button" className="primary" disabled={sending.busy} onClick={sending.onSubmit}>
              Submit
            </button>
          )}
        </div>
        {!sending.checked && <p className="muted">A check stores nothing; the request can be submitted after it.</p>}
      </form>
    </Faults>
  );
}

/** A request has to be checked, as it is now, before it can be submitted. */
function useSending(kind: Kind, body: Body) {
  const { busy, problem, run } = useAction();
  const [last, setLast] = useState<{ body: Body; answer: Checked; key: string } | null>(null);
  const onCheck = (event: SyntheticEvent) => {
    event.preventDefault();
    setLast(null);
    void run(async () => setLast({ body, answer: await check(kind, body), key: idempotencyKey() }));
  };
  const current = last?.body === body ? last : null;
  const onSubmit = () => {
    if (current) void run(async () => go(address(["runs", (await submit(kind, body, current.key)).id])));
  };
  return { busy, problem, checked: current?.answer ?? null, onCheck, onSubmit };
}

function runsOf(kind: Kind, body: Body): number {
  if (kind !== "comparison") return 1;
  const count = (value: unknown, otherwise: number) => (Array.isArray(value) ? value.length : otherwise);
  return count(body["arms"], 0) * count(body["seeds"], 3);
}

function KindChoice({ kind, onChange }: { kind: Kind; onChange: (kind: Kind) => void }) {
  return (
    <fieldset>
      <legend>Kind</legend>
      <div className="options">
        {KINDS.map((each) => (
          <label key={each}>
            <input type="radio" name="kind" checked={each === kind} onChange={() => onChange(each)} />
            {WORDS[each]}
          </label>
        ))}
      </div>
    </fieldset>
  );
}

const WORDS: Readonly<Record<Kind, string>> = {
  ranking: "Ranking: score the layers",
  finetune: "Fine-tune: train some of them",
  comparison: "Comparison: several ways to train",
  search: "Search: find the layers by short trainings",
};

interface OptionsProps {
  schemas: Body;
  kind: Kind;
  body: Body;
  set: (pointer: string) => (value: unknown) => void;
}

function Options({ schemas, kind, body, set }: OptionsProps) {
  return GROUPS[kind].map(({ title, pointers }) => (
    <section className="card" key={title} aria-label={title}>
      <h2>{title}</h2>
      <div className="fields">
        {pointers.map((pointer) => (
          <SchemaField
            key={`${kind} ${pointer}`}
            pointer={pointer}
            info={fieldInfo(schemas, SCHEMAS[kind], pointer)}
            value={valueAt(body, pointer)}
            onChange={set(pointer)}
          />
        ))}
      </div>
    </section>
  ));
}
