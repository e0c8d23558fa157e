import { useMemo } from "react";
import type { Job } from "../../../api/client";
import { Chart, type Draw } from "../../../charts/Chart";
import { axisDigits, digits, metricTitle } from "../../../charts/names";
import { ProblemBox } from "../../../ui/ProblemBox";
import { curvesOf, type Curve } from "./curves";
import { useMeasurements } from "./useMeasurements";

const HEIGHT = 230;
const TITLES: Readonly<Record<string, string>> = {
  train_loss: "Training loss",
  learning_rate: "Learning rate",
  ranking_kendall_tau: "Agreement with the ranking at the start",
};
const UNITS: Readonly<Record<string, string>> = {
  train_loss: "Loss (nats; squared error of a regression)",
  learning_rate: "Learning rate (no unit)",
  ranking_kendall_tau: "Kendall’s τ (no unit)",
};

/** What a fine-tune has measured so far, which grows while it trains. */
export function Curves({ job }: { job: Job }) {
  const { measured, problem, read } = useMeasurements(job);
  const curves = useMemo(() => curvesOf(measured), [measured]);
  return (
    <section className="card part">
      <h2>Learning curves</h2>
      {problem && <ProblemBox problem={problem} />}
      {curves.length === 0 && (
        <p className="muted">
          {!read && "Loading …"}
          {read && (job.terminal ? "Nothing was measured before it ended." : "Nothing is measured yet: the first numbers come after some steps.")}
        </p>
      )}
      <div className="charts">
        {curves.map((curve) => (
          <CurveChart key={curve.name} curve={curve} />
        ))}
      </div>
    </section>
  );
}

function titleOf(name: string): string {
  return TITLES[name] ?? metricTitle(name.replace(/^validation_/, ""));
}

function CurveChart({ curve }: { curve: Curve }) {
  const title = titleOf(curve.name);
  const label = UNITS[curve.name] ?? `${title} (no unit)`;
  const draw = useMemo<Draw>(() => drawing(curve, label), [curve, label]);
  const table = useMemo(
    () => ({
      columns: ["Optimizer steps", label],
      rows: curve.points.map(({ step, value }) => [step, digits(value)]),
    }),
    [curve, label],
  );
  if (curve.points.length === 0) {
    return (
      <p className="muted">
        {title}: none of the {curve.gaps} measurements was a finite number.
      </p>
    );
  }
  const latest = curve.points.at(-1);
  return (
    <Chart title={title} draw={draw} table={table}>
      {curve.name.startsWith("validation_") && "On the validation rows. "}
      {latest && `${digits(latest.value)} at step ${latest.step}. `}
      {curve.baseline !== null && `Dashed: ${digits(curve.baseline)}, what a constant prediction reaches. `}
      {curve.gaps > 0 && `${curve.gaps} of the measurements were not finite. `}
    </Chart>
  );
}

function drawing({ name, points, baseline }: Curve, label: string): Draw {
  const domain = name === "ranking_kendall_tau" ? { domain: [-1, 1] } : {};
  return (plot, width) => {
    const ticks = Math.max(2, Math.floor(width / 110));
    return {
      height: HEIGHT,
      marginLeft: 58,
      marginRight: 20,
      marginTop: 28,
      marginBottom: 40,
      x: { label: "Optimizer steps", ticks, labelArrow: "none", labelAnchor: "center", tickFormat: axisDigits },
      y: { label, nice: true, ...domain, ticks: 5, tickFormat: digits, labelArrow: "none" },
      marks: [
        plot.gridY({ stroke: "var(--line)", strokeOpacity: 1, ticks: 5 }),
        ...(baseline === null
          ? []
          : [plot.ruleY([baseline], { stroke: "var(--series-2)", strokeDasharray: "5 4", strokeWidth: 1.5 })]),
        plot.line(points, { x: "step", y: "value", stroke: "var(--series-1)", strokeWidth: 1.8 }),
        ...(points.length <= 40 ? [plot.dot(points, { x: "step", y: "value", r: 2.6, fill: "var(--series-1)" })] : []),
      ],
    };
  };
}
