import { useCallback, useState } from "react";
import { api, bodyOf, type Schemas } from "../api/client";
import { useOnce } from "../api/useOnce";
import { Preview } from "../datasets/Preview";
import { Report } from "../datasets/Report";
import { UploadForm } from "../datasets/UploadForm";
import { Field } from "../form/Field";
import { isObject, valueAt, withValue, type Body } from "../form/pointer";
import { textOf } from "../form/values";
import { Failure } from "../ui/Failure";
import { wholeNumber } from "../ui/format";

const SOURCES = {
  preset: "A preset",
  stored: "One that is stored",
  upload: "Files to upload",
  hub: "The Hugging Face Hub",
} as const;
type Source = keyof typeof SOURCES;

interface Props {
  dataset: unknown;
  model: string;
  onChange: (dataset: unknown) => void;
}

export function DatasetPart({ dataset, model, onChange }: Props) {
  const [chosen, choose] = useState<Source | null>(null);
  const source = chosen ?? sourceOf(dataset);
  const id = typeof dataset === "string" ? dataset : "";
  const move = (to: Source) => {
    choose(to);
    onChange(to === "hub" ? { hub: "" } : "");
  };
  return (
    <section className="card" aria-labelledby="dataset-title">
      <h2 id="dataset-title">Dataset</h2>
      <fieldset>
        <legend>Where it is from</legend>
        <div className="options">
          {(Object.keys(SOURCES) as Source[]).map((each) => (
            <label key={each}>
              <input type="radio" name="source" checked={each === source} onChange={() => move(each)} />
              {SOURCES[each]}
            </label>
          ))}
        </div>
      </fieldset>
      {source === "preset" && <Preset name={id} onChange={onChange} />}
      {source === "stored" && <Stored id={id} onChange={onChange} />}
      {source === "upload" && <UploadForm onStored={(stored) => onChange(stored.id)} />}
      {source === "hub" && <HubReference reference={isObject(dataset) ? dataset : {}} onChange={onChange} />}
      {id.startsWith("ds_") && <StoredDetails id={id} model={model} />}
    </section>
  );
}

function sourceOf(dataset: unknown): Source {
  if (isObject(dataset)) return "hub";
  return typeof dataset === "string" && dataset.startsWith("ds_") ? "stored" : "preset";
}

const loadTasks = (signal: AbortSignal) => bodyOf(api.GET("/v1/tasks", { signal }));

function Preset({ name, onChange }: { name: string; onChange: (name: string) => void }) {
  const { data, error } = useOnce(loadTasks);
  const tasks = data?.data.filter((task) => !task.evaluation_only) ?? [];
  const task = tasks.find((each) => each.name === name);
  return (
    <>
      <Failure error={error} />
      <Field label="Preset" pointer="/dataset" help={task && describeTask(task)}>
        {(named) => (
          <select {...named} value={name} onChange={(event) => onChange(event.target.value)}>
            <option value="">–</option>
            {name && !task && <option value={name}>{name}</option>}
            {tasks.map((each) => (
              <option key={each.name} value={each.name}>
                {each.name} – {each.title}
              </option>
            ))}
          </select>
        )}
      </Field>
    </>
  );
}

function describeTask({ problem, sizes, labels, metrics }: Schemas["TaskView"]): string {
  const rows = Object.entries(sizes).map(([split, count]) => `${split} ${wholeNumber(count)} rows`);
  const classes = labels.length ? `, labels ${labels.join(", ")}` : "";
  return `${problem.replaceAll("_", " ")}${classes}; ${rows.join(", ")}; ${metrics.join(", ")}`;
}

const MOST = 100;
const loadStored = (signal: AbortSignal) =>
  bodyOf(api.GET("/v1/datasets", { params: { query: { limit: MOST } }, signal }));

function Stored({ id, onChange }: { id: string; onChange: (id: string) => void }) {
  const { data, error } = useOnce(loadStored);
  const rows = data?.data ?? [];
  const help = data?.has_more ? `The newest ${MOST}; name an older one in the JSON by its id.` : "";
  return (
    <>
      <Failure error={error} />
      <Field label="Stored dataset" pointer="/dataset" help={help}>
        {(named) => (
          <select {...named} value={id} onChange={(event) => onChange(event.target.value)}>
            <option value="">–</option>
            {id && !rows.some((each) => each.id === id) && <option value={id}>{id}</option>}
            {rows.map((each) => (
              <option key={each.id} value={each.id}>
                {each.name ?? each.source ?? each.id} ({each.id})
              </option>
            ))}
          </select>
        )}
      </Field>
    </>
  );
}

function StoredDetails({ id, model }: { id: string; model: string }) {
  const load = useCallback(
    (signal: AbortSignal) =>
      bodyOf(api.GET("/v1/datasets/{dataset_id}", { params: { path: { dataset_id: id } }, signal })),
    [id],
  );
  const { data, error } = useOnce(load);
  return (
    <>
      <Failure error={error} />
      {data && <h3>{data.name ?? id}</h3>}
      {data && <Report dataset={data as Schemas["DatasetView"]} />}
      {data && <Preview dataset={id} model={model} />}
    </>
  );
}

const HUB_FIELDS = [
  ["hub", "Dataset on the Hub", "owner/name"],
  ["config", "Configuration", ""],
  ["revision", "Revision", "the newest commit"],
  ["train", "Training split", "train"],
  ["validation", "Validation split", "validation"],
  ["columns/text", "Column of the text", "text"],
  ["columns/text_pair", "Column of a second text", ""],
  ["columns/label", "Column of the label", "label"],
] as const;

function HubReference({ reference, onChange }: { reference: Body; onChange: (reference: Body) => void }) {
  return (
    <div className="fields">
      {HUB_FIELDS.map(([path, label, example]) => {
        const inner = valueAt(reference, `/${path}`);
        return (
          <Field key={path} label={label} pointer={`/dataset/${path}`}>
            {(named) => (
              <input
                {...named}
                value={textOf(inner)}
                placeholder={example}
                spellCheck={false}
                onChange={(event) => {
                  const empty = path === "hub" ? "" : undefined;
                  onChange(withValue(reference, `/${path}`, event.target.value || empty));
                }}
              />
            )}
          </Field>
        );
      })}
    </div>
  );
}
