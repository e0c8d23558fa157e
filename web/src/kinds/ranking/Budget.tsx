import { useCallback, useId, useState } from "react";
import { api, bodyOf, type Job, type Schemas } from "../../api/client";
import { useOnce } from "../../api/useOnce";
import { PAGES } from "../../app/pages";
import { address } from "../../app/router";
import type { RankingResult } from "../../charts/results";
import { useDebounced } from "../../charts/useDebounced";
import { CopyText } from "../../ui/CopyText";
import { Failure } from "../../ui/Failure";
import { bytes, duration, wholeNumber } from "../../ui/format";

interface Props {
  job: Job;
  result: RankingResult;
}

/** What training the best k layers takes, and that choice for other tools. */
export function Budget({ job, result }: Props) {
  const [k, setK] = useState(result.recommended_k.k);
  const asked = useDebounced(k);
  const slider = useId();
  const chosen = result.layers.slice(0, k).map((layer) => layer.name);
  return (
    <section className="card part budget">
      <h2>Train the best k</h2>
      <label htmlFor={slider}>
        k = {k} of {result.layers.length}
      </label>
      <input
        id={slider}
        type="range"
        min={1}
        max={result.layers.length}
        value={k}
        onChange={(event) => setK(Number(event.target.value))}
      />
      <p className="muted">
        Recommended is {result.recommended_k.k}: {result.recommended_k.reason}. Chosen now:{" "}
        {chosen.slice(0, 12).join(", ")}
        {chosen.length > 12 && ` and ${chosen.length - 12} more`}.
      </p>
      <Costs job={job} k={asked} />
      <GoOn ranking={job.id} k={k} />
      <Selection ranking={job.id} k={asked} whole={result.granularity === "layer"} />
    </section>
  );
}

function Costs({ job, k }: { job: Job; k: number }) {
  // As text: in each answer the specification is an object of its own.
  const subject = JSON.stringify({ model: job.spec["model"], dataset: job.spec["dataset"] });
  const ask = useCallback(
    (signal: AbortSignal) => {
      const selection = { policy: "top_k", k, ranking: job.id };
      const body = { ...(JSON.parse(subject) as object), selection } as Schemas["EstimateSpec"];
      return bodyOf(api.POST("/v1/estimates", { body, signal }));
    },
    [job.id, subject, k],
  );
  const { last: answer, error } = useOnce(ask);
  if (error !== null) return <Failure error={error} />;
  const row = answer?.rows[0];
  if (!answer || !row) return <p className="muted">Estimating …</p>;
  return (
    <dl className="facts">
      <Fact name="Parameters that train" value={row.trainable_parameters} write={wholeNumber} why="the model’s sizes cannot be read now" />
      <Fact name="Memory at most" value={row.peak_memory_bytes} write={bytes} why="the model’s sizes or the rows’ lengths are unknown" />
      <Fact name="Time of training" value={row.seconds?.total} write={duration} why={answer.throughput.accuracy} />
      <Fact name="Size of a checkpoint" value={row.checkpoint_bytes} write={bytes} why="the model’s sizes cannot be read now" />
    </dl>
  );
}

interface FactProps {
  name: string;
  value: number | null | undefined;
  write: (value: number) => string;
  /** Why there is no value. */
  why: string;
}

function Fact({ name, value, write, why }: FactProps) {
  return (
    <div>
      <dt>{name}</dt>
      <dd>{value == null ? `not known: ${why}` : write(value)}</dd>
    </div>
  );
}

/** Links to the form of a new run with this choice, where the page has that form. */
function GoOn({ ranking, k }: { ranking: string; k: number }) {
  if (!PAGES.some((page) => page.name === "new")) return null;
  const to = (kind: string) => address(["new"], new URLSearchParams({ kind, ranking, k: String(k) }));
  return (
    <p className="actions">
      <a className="button primary" href={to("finetune")}>
        Fine-tune these layers
      </a>
      <a className="button" href={to("comparison")}>
        Compare them with other choices
      </a>
    </p>
  );
}

const FORMATS = { peft: "PEFT", axolotl: "Axolotl", regex: "Regular expression", json: "List of layers" } as const;
type Format = keyof typeof FORMATS;

/** PEFT names whole layers only, so that parts of layers are shown as a regular expression first. */
function Selection({ ranking, k, whole }: { ranking: string; k: number; whole: boolean }) {
  const [format, setFormat] = useState<Format>(whole ? "peft" : "regex");
  const ask = useCallback(
    (signal: AbortSignal) => {
      const params = { path: { job_id: ranking }, query: { policy: "top_k", k, format } as const };
      return bodyOf(api.GET("/v1/rankings/{job_id}/selection", { params, signal }));
    },
    [ranking, k, format],
  );
  const { last: answer, error } = useOnce(ask);
  return (
    <>
      <h3>The same choice for other tools</h3>
      <label>
        Written for{" "}
        <select value={format} onChange={(event) => setFormat(event.target.value as Format)}>
          {Object.entries(FORMATS).map(([value, words]) => (
            <option key={value} value={value}>
              {words}
            </option>
          ))}
        </select>
      </label>
      <Failure error={error} />
      {answer && <CopyText what={`the selection for ${FORMATS[format]}`} text={JSON.stringify(answer["selection"], null, 2)} />}
    </>
  );
}
