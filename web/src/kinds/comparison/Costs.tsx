import { useMemo, useState } from "react";
import type { Schemas } from "../../api/client";
import { Chart, type Draw } from "../../charts/Chart";
import { axisDigits, digits, metricTitle } from "../../charts/names";
import { paretoLine } from "../../charts/pareto";

type Arm = Schemas["ArmReport"];

const HEIGHT = 300;
const COSTS: Readonly<Record<string, readonly [string, (arm: Arm) => number | null | undefined]>> = {
  seconds: ["Seconds a run", (arm) => arm.seconds["total"] ?? arm.seconds["train"]],
  parameters: ["Parameters that train", (arm) => arm.trainable_parameters],
  memory: ["Peak memory (MB)", (arm) => arm.peak_memory_bytes && arm.peak_memory_bytes / 1e6],
  checkpoint: ["Size of a checkpoint (MB)", (arm) => arm.checkpoint_bytes && arm.checkpoint_bytes / 1e6],
};

interface Point {
  name: string;
  cost: number;
  value: number;
}

/** What each arm costs beside what it reached, and which are worth their cost. */
export function Costs({ arms, metric }: { arms: readonly Arm[]; metric: string }) {
  const [cost, setCost] = useState("seconds");
  const [label, costOf] = COSTS[cost] ?? ["", () => null];
  const points = useMemo(() => pointsOf(arms, costOf), [arms, costOf]);
  const line = useMemo(() => paretoLine(points), [points]);
  const draw = useMemo<Draw>(() => drawing(points, line, label, metric), [points, line, label, metric]);
  const table = useMemo(
    () => ({
      columns: ["Arm", label, metricTitle(metric), "On the Pareto line"],
      rows: points.map((point) => [point.name, digits(point.cost), digits(point.value), line.includes(point) ? "yes" : "no"]),
    }),
    [points, line, label, metric],
  );
  return (
    <div>
      {points.length < 2 ? (
        <p className="muted">Fewer than two arms have both a value and this cost, so there is nothing to weigh.</p>
      ) : (
        <Chart title="Cost beside what was reached" draw={draw} table={table}>
          The line joins the arms beside which no other costs less and reaches as much; intervals are left
          out of it.
        </Chart>
      )}
      <label>
        Cost{" "}
        <select value={cost} onChange={(event) => setCost(event.target.value)}>
          {Object.entries(COSTS).map(([value, [words]]) => (
            <option key={value} value={value}>
              {words}
            </option>
          ))}
        </select>
      </label>
    </div>
  );
}

function pointsOf(arms: readonly Arm[], costOf: (arm: Arm) => number | null | undefined): Point[] {
  return arms.flatMap((arm) => {
    const cost = costOf(arm);
    return arm.metric && cost != null ? [{ name: arm.name, cost, value: arm.metric.mean }] : [];
  });
}

function drawing(points: readonly Point[], line: readonly Point[], label: string, metric: string): Draw {
  const fill = (point: Point) => (line.includes(point) ? "var(--series-1)" : "var(--card)");
  return (plot, width) => {
    const ticks = Math.max(2, Math.floor(width / 110));
    return {
      height: HEIGHT,
      marginLeft: 58,
      marginRight: 90,
      marginTop: 28,
      marginBottom: 40,
      x: { label, nice: true, zero: true, ticks, tickFormat: axisDigits, labelArrow: "none", labelAnchor: "center" },
      y: { label: `${metricTitle(metric)} (no unit)`, nice: true, inset: 12, ticks: 5, tickFormat: digits, labelArrow: "none" },
      marks: [
        plot.gridY({ stroke: "var(--line)", strokeOpacity: 1, ticks: 5 }),
        plot.gridX({ stroke: "var(--line)", strokeOpacity: 1, ticks }),
        plot.line(line, { x: "cost", y: "value", stroke: "var(--series-1)", strokeDasharray: "4 3" }),
        plot.dot(points, { x: "cost", y: "value", r: 5, fill, stroke: "var(--series-1)", strokeWidth: 1.5 }),
        plot.text(points, { x: "cost", y: "value", text: "name", dx: 9, textAnchor: "start", stroke: "var(--card)", fill: "var(--text)" }),
      ],
    };
  };
}
