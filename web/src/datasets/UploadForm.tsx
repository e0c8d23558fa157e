import { useRef, useState } from "react";
import { idempotencyKey, type Schemas } from "../api/client";
import { describe, type ProblemDocument } from "../api/problem";
import { Field } from "../form/Field";
import { isObject, type Body } from "../form/pointer";
import { textOf } from "../form/values";
import { ProblemBox } from "../ui/ProblemBox";
import { percent } from "../ui/format";
import { FileFaults } from "./Faults";
import { faultsByFile } from "./faultyRows";
import { FileDrop } from "./FileDrop";
import { upload } from "./upload";

type Stored = Schemas["DatasetView"];
const PROBLEMS = ["classification", "multi_label", "regression", "multiple_choice", "token_classification"];
const COLUMNS = [
  ["text", "Column of the text"],
  ["text_pair", "Column of a second text"],
  ["label", "Column of the label"],
] as const;

interface Draft {
  train: File | null;
  validation: File | null;
  name: string;
  problem: string;
  columns: Body;
}

const EMPTY: Draft = { train: null, validation: null, name: "", problem: "", columns: {} };

/** Files to store as a dataset. It is no form of its own: it may stand within one. */
export function UploadForm({ onStored }: { onStored: (stored: Stored) => void }) {
  const [draft, setDraft] = useState(EMPTY);
  const { share, problem, start } = useUpload(onStored);
  const set = (change: Partial<Draft>) => setDraft((old) => ({ ...old, ...change }));
  const { train } = draft;
  return (
    <>
      <div className="fields">
        <FileDrop label="Training rows" file={train} onChange={(file) => set({ train: file })} />
        <FileDrop
          label="Validation rows (without them a tenth is set aside)"
          file={draft.validation}
          onChange={(file) => set({ validation: file })}
        />
      </div>
      <p className="muted">CSV, TSV, JSON Lines (also .gz and .zst) or Parquet, in UTF-8.</p>
      <Reading draft={draft} set={set} />
      <div className="actions">
        <button type="button" disabled={!train || share !== null} onClick={() => train && start({ ...draft, train })}>
          Upload
        </button>
      </div>
      {share !== null && (
        <p className="progress">
          <progress max={1} value={share} aria-label="Upload" />
          <span>{share < 1 ? `${percent(share * 100)} sent` : "Sent; the service reads every row …"}</span>
        </p>
      )}
      {problem && (
        <Refusal problem={problem} files={[train, draft.validation]} onColumns={(columns) => set({ columns })} />
      )}
    </>
  );
}

function Reading({ draft, set }: { draft: Draft; set: (change: Partial<Draft>) => void }) {
  return (
    <details>
      <summary>How to read the files: what is left out is inferred</summary>
      <div className="fields">
        <Field label="Name of the dataset">
          {(named) => (
            <input {...named} value={draft.name} onChange={(event) => set({ name: event.target.value })} />
          )}
        </Field>
        <Field label="Problem">
          {(named) => (
            <select {...named} value={draft.problem} onChange={(event) => set({ problem: event.target.value })}>
              <option value="">inferred</option>
              {PROBLEMS.map((each) => (
                <option key={each}>{each}</option>
              ))}
            </select>
          )}
        </Field>
        {COLUMNS.map(([name, label]) => (
          <Field label={label} key={name}>
            {(named) => (
              <input
                {...named}
                value={textOf(draft.columns[name])}
                placeholder="inferred"
                spellCheck={false}
                onChange={(event) => set({ columns: { ...draft.columns, [name]: event.target.value } })}
              />
            )}
          </Field>
        ))}
      </div>
    </details>
  );
}

function useUpload(onStored: (stored: Stored) => void) {
  const [share, setShare] = useState<number | null>(null);
  const [problem, setProblem] = useState<ProblemDocument | null>(null);
  const key = useRef("");
  const start = (draft: Draft & { train: File }) => {
    setProblem(null);
    setShare(0);
    key.current = idempotencyKey();
    const columns = Object.fromEntries(Object.entries(draft.columns).filter(([, name]) => name !== ""));
    const spec = {
      ...(Object.keys(columns).length ? { columns } : {}),
      ...(draft.problem ? { problem: draft.problem } : {}),
    };
    upload({ ...draft, spec }, key.current, setShare)
      .then(onStored, (error: unknown) => setProblem(describe(error)))
      .finally(() => setShare(null));
  };
  return { share, problem, start };
}

interface RefusalProps {
  problem: ProblemDocument;
  files: readonly (File | null)[];
  onColumns: (columns: Body) => void;
}

/** Why nothing was stored: what is wrong with the request, and with which rows. */
function Refusal({ problem, files, onColumns }: RefusalProps) {
  const faults = problem.errors ?? [];
  const byFile = faultsByFile(faults);
  const inRows = new Set([...byFile.values()].flat());
  const others = faults.filter((fault) => !inRows.has(fault));
  const columns = others.map(({ suggestion }) => suggestion).find(isObject);
  return (
    <>
      <ProblemBox problem={{ ...problem, errors: others }} />
      {columns && (
        <button type="button" onClick={() => onColumns(columns)}>
          Take{" "}
          {Object.entries(columns)
            .map(([name, column]) => `${textOf(column)} as ${name}`)
            .join(", ")}
        </button>
      )}
      {[...byFile].map(([name, own]) => (
        <FileFaults key={name} name={name} faults={own} file={files.find((file) => file?.name === name) ?? null} />
      ))}
    </>
  );
}
