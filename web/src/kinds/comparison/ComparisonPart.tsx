import { useMemo } from "react";
import type { Schemas } from "../../api/client";
import { Intervals } from "../../charts/Intervals";
import { metricTitle } from "../../charts/names";
import { missing, type ComparisonResult } from "../../charts/results";
import { Children } from "../../run/Children";
import type { PartProps } from "../parts";
import { Costs } from "./Costs";
import { SingleLayers } from "./SingleLayers";
import "../../charts/charts.css";

/** The ways to train of a comparison beside each other, and its runs. */
export default function ComparisonPart({ job }: PartProps) {
  const result = job.result as ComparisonResult | null;
  return (
    <>
      {result ? (
        <Compared result={result} />
      ) : (
        <section className="card part">
          <h2>Arms</h2>
          <p className="muted">{missing(job, "results to compare")}</p>
        </section>
      )}
      <Children job={job} />
    </>
  );
}

function Compared({ result }: { result: ComparisonResult }) {
  // Single layers have a chart of their own.
  const single = useMemo(() => new Set(result.single_layers?.layers.map((layer) => layer.arm)), [result]);
  const arms = useMemo(() => result.arms.filter((arm) => !single.has(arm.name)), [result, single]);
  const shown = arms.length > 0 ? arms : result.arms;
  return (
    <>
      <section className="card part">
        <h2>Arms</h2>
        {result.decision && <p>{result.decision.summary}</p>}
        <div className="charts">
          <Forest result={result} arms={shown} />
          <Differences result={result} arms={shown} />
          <Costs arms={shown} metric={metricWords(result)} />
        </div>
      </section>
      {result.single_layers && <SingleLayers of={result.single_layers} metric={metricWords(result)} />}
    </>
  );
}

function metricWords({ primary_metric: name }: ComparisonResult): string {
  return name.replaceAll("_", " ");
}

interface Props {
  result: ComparisonResult;
  arms: readonly Schemas["ArmReport"][];
}

function Forest({ result, arms }: Props) {
  const rows = useMemo(
    () =>
      arms.flatMap(({ name, metric, same_as: twin }) =>
        metric ? [{ name, mean: metric.mean, ci: metric.ci, ...(twin ? { note: `as ${twin}` } : {}) }] : [],
      ),
    [arms],
  );
  const without = arms.filter((arm) => !arm.metric).map((arm) => arm.name);
  const baseline = result.baseline[result.primary_metric];
  if (rows.length === 0) return <p className="muted">No arm has a value: every run failed.</p>;
  const single = rows.every((row) => row.ci === null);
  return (
    <Intervals title="What each arm reached" label={`${metricTitle(result.primary_metric)} (no unit)`} what="Arm" rows={rows} line={baseline ?? null}>
      {single ? "One seed each, so there are no intervals. " : "Means over the seeds with their 95 % t intervals. "}
      {baseline != null && "Dashed: what the same answer for every row reaches. "}
      {without.length > 0 && `Without a value: ${without.join(", ")}.`}
    </Intervals>
  );
}

function Differences({ result, arms }: Props) {
  const rows = useMemo(
    () =>
      arms.flatMap(({ name, difference, verdict }) =>
        difference ? [{ name, mean: difference.mean, ci: difference.ci, note: verdict ?? "not decided" }] : [],
      ),
    [arms],
  );
  if (rows.length === 0) return <p className="muted">No arm has a seed in common with {result.reference}, so there are no differences.</p>;
  const label = `Difference in ${metricWords(result)} (no unit)`;
  return (
    <Intervals title={`Difference to ${result.reference}`} label={label} what="Arm" rows={rows} line={0}>
      Paired by seed, with 95 % t intervals that are not adjusted for the number of arms; the
      verdicts, which the table has too, are.
      {result.noise != null && ` The choice of the validation rows alone makes a standard error of ${result.noise.toPrecision(2)}.`}
    </Intervals>
  );
}
