import { useCallback, useId, useState } from "react";
import { api, bodyOf, type Schemas } from "../api/client";
import { useAction } from "../api/useAction";
import { useOnce } from "../api/useOnce";
import type { PageProps } from "../app/pages";
import { address, go } from "../app/router";
import "../form/form.css";
import { ConfirmButton } from "../ui/ConfirmButton";
import { Failure } from "../ui/Failure";
import { ProblemBox } from "../ui/ProblemBox";
import { useTitle } from "../ui/useTitle";
import { Preview } from "./Preview";
import { Report } from "./Report";

export default function DatasetPage({ place }: PageProps) {
  const id = place.parts[1] ?? "";
  const load = useCallback(
    (signal: AbortSignal) =>
      bodyOf(api.GET("/v1/datasets/{dataset_id}", { params: { path: { dataset_id: id } }, signal })),
    [id],
  );
  const { data, error, loading } = useOnce(load);
  useTitle(data?.name ?? id);
  return (
    <>
      <p>
        <a href={address(["datasets"])}>← All datasets</a>
      </p>
      <h1>{data?.name ?? id}</h1>
      <Failure error={error} />
      {loading && <p className="muted">Loading …</p>}
      {data && <Dataset dataset={data as Schemas["DatasetView"]} />}
    </>
  );
}

function Dataset({ dataset }: { dataset: Schemas["DatasetView"] }) {
  const { busy, problem, run } = useAction();
  const path = { dataset_id: dataset.id };
  const remove = async () => {
    await api.DELETE("/v1/datasets/{dataset_id}", { params: { path } });
    go(address(["datasets"]), { replace: true });
  };
  const train = new URLSearchParams({ dataset: dataset.id });
  return (
    <>
      <section className="card">
        <p>
          <code>{dataset.id}</code>
        </p>
        <div className="actions">
          <a className="button" href={address(["new"], train)}>
            New run on it
          </a>
          <ConfirmButton label="Delete" question="Delete this dataset?" disabled={busy} onConfirm={() => void run(remove)}>
            Its rows are removed for good. Runs that have ended keep their results.
          </ConfirmButton>
        </div>
        {problem && <ProblemBox problem={problem} />}
        <h2>Report</h2>
        <Report dataset={dataset} />
      </section>
      <Tokens dataset={dataset.id} />
    </>
  );
}

const loadModels = (signal: AbortSignal) => bodyOf(api.GET("/v1/models", { signal }));

function Tokens({ dataset }: { dataset: string }) {
  const [model, setModel] = useState("");
  const id = useId();
  const { data } = useOnce(loadModels);
  return (
    <section className="card" aria-labelledby={`${id}-title`}>
      <h2 id={`${id}-title`}>As a model reads it</h2>
      <div className="field">
        <label htmlFor={id}>Model</label>
        <input id={id} list={`${id}-list`} value={model} spellCheck={false} onChange={(event) => setModel(event.target.value)} />
        <datalist id={`${id}-list`}>
          {data?.data.map((each) => (
            <option key={each.id} value={each.id} />
          ))}
        </datalist>
      </div>
      <Preview dataset={dataset} model={model.trim()} />
    </section>
  );
}
