import type { Job } from "../../api/client";
import { missing, type RankingResult } from "../../charts/results";
import type { PartProps } from "../parts";
import { Budget } from "./Budget";
import { Methods } from "./Methods";
import { Scores } from "./Scores";
import { TopK } from "./TopK";
import "../../charts/charts.css";

/** The layers of a ranking, how sure their order is, and what training the best of them takes. */
export default function RankingPart({ job }: PartProps) {
  const result = job.result as RankingResult | null;
  if (!result) {
    return (
      <section className="card part">
        <h2>Layers</h2>
        <p className="muted">{missing(job, "scores")}</p>
      </section>
    );
  }
  return <Ranked job={job} result={result} />;
}

function Ranked({ job, result }: { job: Job; result: RankingResult }) {
  return (
    <>
      <section className="card part">
        <h2>Layers</h2>
        <Scores result={result} />
        <TopK result={result} />
        <Agreement result={result} />
      </section>
      {result.methods && <Methods table={result.methods} />}
      <Budget job={job} result={result} />
    </>
  );
}

/** What the order is a property of, as far as it was measured. */
function Agreement({ result }: { result: RankingResult }) {
  const { model_prior: prior, stability, samples } = result;
  const halves = stability.split_half_kendall_tau;
  return (
    <>
      <h3>How far to trust the order</h3>
      <p>
        {halves == null
          ? "How far the order depends on the rows is not known: single rows have no score. "
          : `Kendall’s τ between the orders on two halves of the ${samples} rows: ${tau(halves)}. `}
        {stability.rank_confidence != null &&
          `${Math.round(stability.rank_confidence * 100)} % of the resamples have exactly this order. `}
        {prior
          ? `On shuffled labels the order agrees with τ = ${tau(prior.kendall_tau)}, on shuffled tokens with τ = ${tau(prior.shuffled_tokens.kendall_tau)} (${prior.samples} rows; 1 is the same order, 0 an unrelated one): ${prior.note}.`
          : "It was not compared with orders on shuffled labels and tokens (model_prior)."}
      </p>
    </>
  );
}

function tau(value: number | null): string {
  return value == null ? "undefined" : value.toFixed(2);
}
