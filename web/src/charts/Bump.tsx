import { useMemo, type ReactNode } from "react";
import { Chart, type Draw } from "./Chart";
import { shortNames, slanted } from "./names";
import { placesOf, type Placed } from "./ranks";

const SERIES = 8;
const ROW_PIXELS = 26;

interface Props {
  title: string;
  /** What the orders are of, such as `Method`. */
  label: string;
  /** By name of the order: the layers, best first. The first gives the colours. */
  orders: readonly (readonly [string, readonly string[]])[];
  children: ReactNode;
}

/** Several orders of the same layers beside each other: a line a layer, crossing where they differ. */
export function Bump({ title, label, orders, children }: Props) {
  const draw = useMemo<Draw>(() => drawing(label, orders), [label, orders]);
  const table = useMemo(
    () => ({
      columns: [label, "Best layer first"],
      rows: orders.map(([name, order]) => [name, order.join(", ")]),
    }),
    [label, orders],
  );
  return (
    <Chart title={title} draw={draw} table={table}>
      {children}
    </Chart>
  );
}

function drawing(label: string, orders: Props["orders"]): Draw {
  const layers = orders[0]?.[1] ?? [];
  const short = shortNames(layers);
  const colour = (layer: string) => `var(--series-${(layers.indexOf(layer) % SERIES) + 1})`;
  const places = placesOf(orders);
  const columns = orders.map(([name]) => name);
  const ends = (column: string | undefined) => places.filter((each) => each.column === column);
  const name = (each: Placed) => short.get(each.layer) ?? each.layer;
  const longest = 7 * Math.max(...layers.map((layer) => (short.get(layer) ?? layer).length), 4);
  return (plot, width) => {
    const [left, right] = [longest + 30, width < 500 ? 20 : longest + 12];
    const { rotate, pixels } = slanted(columns, (width - left - right) / columns.length);
    return {
      height: layers.length * ROW_PIXELS + pixels + 50,
      marginLeft: left,
      marginRight: right,
      marginTop: 28,
      marginBottom: pixels + 22,
      x: { type: "point", domain: columns, label },
      y: { domain: [layers.length + 0.5, 0.5], ticks: [], label: "Rank (1 is best)" },
      marks: [
        plot.axisX({ tickRotate: rotate, label, labelOffset: pixels + 18, labelArrow: "none" }),
        plot.line(places, { x: "column", y: "rank", z: "layer", stroke: (d: Placed) => colour(d.layer), strokeWidth: 2 }),
        plot.dot(places, { x: "column", y: "rank", r: 8, fill: "var(--card)", stroke: (d: Placed) => colour(d.layer) }),
        plot.text(places, { x: "column", y: "rank", text: "rank", fontSize: 10, fill: "var(--text)" }),
        plot.text(ends(columns[0]), { x: "column", y: "rank", text: name, dx: -14, textAnchor: "end" }),
        ...(width < 500
          ? []
          : [plot.text(ends(columns.at(-1)), { x: "column", y: "rank", text: name, dx: 14, textAnchor: "start" })]),
      ],
    };
  };
}
