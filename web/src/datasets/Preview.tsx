import { useState } from "react";
import { api, bodyOf, type Schemas } from "../api/client";
import { useAction } from "../api/useAction";
import { ProblemBox } from "../ui/ProblemBox";
import { percent, wholeNumber } from "../ui/format";

type Answer = Schemas["Preview"];

/** The first rows of a dataset in the tokens of a model. */
export function Preview({ dataset, model }: { dataset: string; model: string }) {
  const { busy, problem, run } = useAction();
  const [preview, setPreview] = useState<Answer | null>(null);
  const load = async () => {
    const params = { path: { dataset_id: dataset }, query: { model } };
    setPreview(await bodyOf(api.POST("/v1/datasets/{dataset_id}/preview", { params })));
  };
  const shown = preview?.dataset === dataset && preview.model === model ? preview : null;
  return (
    <>
      <div className="actions">
        <button type="button" disabled={busy || !model} onClick={() => void run(load)}>
          {busy ? "Tokenising …" : "Show it as the model reads it"}
        </button>
      </div>
      {!model && <p className="muted">Name a model to see its tokens.</p>}
      {problem && <ProblemBox problem={problem} />}
      {shown && <Rows preview={shown} />}
    </>
  );
}

function Rows({ preview }: { preview: Answer }) {
  const { lengths } = preview;
  return (
    <section aria-label="Preview">
      <h3>As {preview.model} reads it</h3>
      <p>
        The longest of {wholeNumber(lengths.sampled)} rows has {wholeNumber(lengths.longest)} tokens; at most{" "}
        {wholeNumber(preview.max_length)} are read, which cuts {percent(lengths.truncated * 100)} of the rows. A
        max_length of {wholeNumber(lengths.suggested_max_length)} suits them.
      </p>
      <ol className="steps">
        {preview.rows.map((row) => (
          <li key={row.row}>
            <p>
              Row {wholeNumber(row.row)}, {labelOf(row)}
            </p>
            {row.sequences.map((sequence, index) => (
              <div className="tokens" key={index}>
                {sequence.tokens.map((token, place) => (
                  <code key={place} title={String(sequence.input_ids[place])}>
                    {token}
                  </code>
                ))}
                {sequence.cut.map((token, place) => (
                  <code className="cut" key={place} title="cut off">
                    {token}
                  </code>
                ))}
              </div>
            ))}
          </li>
        ))}
      </ol>
    </section>
  );
}

function labelOf(row: Answer["rows"][number]): string {
  if (row.label_names) return row.label_names.length ? `labels ${row.label_names.join(", ")}` : "no label";
  const label = row.label_name ?? row.label;
  return label == null ? "a tag at each word" : `label ${label}`;
}
