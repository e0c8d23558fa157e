import { useMemo } from "react";
import { Intervals } from "../../charts/Intervals";
import { missing, type SearchResult } from "../../charts/results";
import type { PartProps } from "../parts";
import { duration, percent } from "../../ui/format";
import "../../charts/charts.css";

/** The candidates of a search, best first, with what is known about each. */
export default function SearchPart({ job }: PartProps) {
  const result = job.result as SearchResult | null;
  return (
    <section className="card part">
      <h2>Candidates</h2>
      {result ? <Candidates result={result} /> : <p className="muted">{missing(job, "candidates")}</p>}
    </section>
  );
}

const WHY = {
  certain: "the best candidate was certain",
  budget: "the budget was spent",
  exhausted: "every candidate had been trained to the end",
} as const;

function Candidates({ result }: { result: SearchResult }) {
  const metric = result.primary_metric.replaceAll("_", " ");
  const rows = useMemo(
    () =>
      result.arms.flatMap(({ name, expected, p_best: best, learning_rate: rate }) =>
        expected
          ? [{ name, mean: expected.mean, ci: [expected.low, expected.high] as const, note: `${percent(best * 100)} best, rate ${rate ?? "–"}` }]
          : [],
      ),
    [result],
  );
  const untried = result.arms.filter((arm) => !arm.expected).map((arm) => arm.name);
  return (
    <>
      <p>
        Chosen: {result.layers.join(", ")} at a rate of {result.learning_rate}.{" "}
        {result.winner === null
          ? "It is not better than every other candidate beyond chance. "
          : "It is better than every other candidate. "}
        The search ended because {WHY[result.stopped]}, after {duration(result.cost.seconds)} of at most{" "}
        {duration(result.cost.budget_seconds)}.
      </p>
      {rows.length > 0 ? (
        <Intervals title="What each candidate is expected to reach" label={`Expected ${metric} (no unit)`} what="Candidate" rows={rows} line={result.baseline[result.primary_metric] ?? null}>
          After the whole training; best first, with {percent(result.confidence * 100)} intervals, the probability of being the best
          and the learning rate. Dashed: what the same answer for every row reaches.
        </Intervals>
      ) : (
        <p className="muted">No candidate was tried to an end that says what it would reach.</p>
      )}
      {untried.length > 0 && (
        <p className="muted">
          Not tried, as scores put them too far down for the budget: {untried.slice(0, 20).join(", ")}
          {untried.length > 20 && ` and ${untried.length - 20} more`}.
        </p>
      )}
    </>
  );
}
