import { useMemo, type ReactNode } from "react";
import { Chart, type Draw } from "./Chart";
import { anchorOf, axisDigits, between, digits } from "./names";

const ROW_PIXELS = 28;
const SHOWN = 60;

export interface Row {
  name: string;
  mean: number;
  ci: readonly [number, number] | null;
  /** Words beside the row, such as a verdict. */
  note?: string;
}

interface Props {
  title: string;
  /** What is measured, with its unit. */
  label: string;
  /** What a row is, such as `Arm`. */
  what: string;
  rows: readonly Row[];
  /** A value to compare with, such as that of a constant prediction. */
  line?: number | null;
  /** Whether values are drawn as bars from zero. */
  bars?: boolean;
  children?: ReactNode;
}

/** A row for each thing that was measured: its value, and the interval around it. */
export function Intervals({ title, label, what, rows, line = null, bars = false, children }: Props) {
  const draw = useMemo<Draw>(() => drawing(label, rows, line, bars), [label, rows, line, bars]);
  const table = useMemo(
    () => ({
      columns: [what, label, "Interval", "Note"],
      rows: rows.map((row) => [row.name, digits(row.mean), between(row.ci), row.note ?? ""]),
    }),
    [label, what, rows],
  );
  return (
    <Chart title={title} draw={draw} table={table}>
      {children}
      {rows.length > SHOWN && ` Drawn are the first ${SHOWN} of ${rows.length}; the table has all.`}
    </Chart>
  );
}

function drawing(label: string, all: readonly Row[], line: number | null, bars: boolean): Draw {
  const rows = all.slice(0, SHOWN);
  const measured = rows.filter((row) => row.ci !== null);
  const longest = (words: readonly string[]) => Math.max(...words.map((each) => each.length), 0);
  const names = 7 * longest(rows.map((row) => row.name)) + 16;
  const notes = 6.6 * longest(rows.map((row) => row.note ?? "")) + 20;
  const low = (row: Row) => row.ci?.[0];
  const high = (row: Row) => row.ci?.[1];
  return (plot, width) => {
    const noted = notes > 20 && notes < width * 0.32; // the table has them where there is no room
    const [left, right] = [Math.min(width * 0.55, names), noted ? notes : 24];
    const ticks = Math.max(3, Math.floor(width / 130));
    const labelAnchor = anchorOf(label, width, left, right);
    return {
      height: rows.length * ROW_PIXELS + 60,
      marginLeft: left,
      marginRight: right,
      marginBottom: 40,
      x: { label, nice: true, inset: bars ? 0 : 8, ticks, tickFormat: axisDigits, labelArrow: "none", labelAnchor },
      y: { type: "band", domain: rows.map((row) => row.name), label: null, padding: 0.35 },
      marks: [
        plot.gridX({ stroke: "var(--line)", strokeOpacity: 1, ticks }),
        ...(bars
          ? [plot.barX(rows, { x: "mean", y: "name", fill: "var(--series-1)", fillOpacity: 0.55 }), plot.ruleX([0])]
          : []),
        ...(line === null ? [] : [plot.ruleX([line], { stroke: "var(--series-2)", strokeDasharray: "5 4", strokeWidth: 1.5 })]),
        plot.ruleY(measured, { x1: low, x2: high, y: "name", stroke: "var(--text)", strokeWidth: 1.6 }),
        plot.ruleX(measured, { x: low, y: "name", stroke: "var(--text)", insetTop: 4, insetBottom: 4 }),
        plot.ruleX(measured, { x: high, y: "name", stroke: "var(--text)", insetTop: 4, insetBottom: 4 }),
        ...(bars ? [] : [plot.dot(rows, { x: "mean", y: "name", r: 4.5, fill: "var(--series-1)" })]),
        ...(noted ? [plot.text(rows, { y: "name", text: "note", frameAnchor: "right", textAnchor: "start", dx: 8 })] : []),
      ],
    };
  };
}
