import { useMemo } from "react";
import type { Schemas } from "../../api/client";
import { Bump } from "../../charts/Bump";
import { Chart, type Draw } from "../../charts/Chart";
import { slanted } from "../../charts/names";

const DARKEST = 0.45; // so that the numbers on it stay legible

/** Every method's order of the layers, and how far the orders agree. */
export function Methods({ table }: { table: Schemas["MethodTable"] }) {
  const orders = useMemo(
    () => table.methods.map(({ method, order }) => [method, order] as const),
    [table],
  );
  return (
    <section className="card part">
      <h2>Methods</h2>
      <div className="charts">
        <Bump title="The order by each method" label="Method" orders={orders}>
          A line is a layer; lines cross where methods disagree.
        </Bump>
        <Correlations table={table} />
      </div>
    </section>
  );
}

interface Pair {
  one: string;
  other: string;
  tau: number | null;
}

function Correlations({ table }: { table: Schemas["MethodTable"] }) {
  const pairs = useMemo<Pair[]>(
    () =>
      Object.entries(table.kendall_tau).flatMap(([one, others]) =>
        Object.entries(others).map(([other, tau]) => ({ one, other, tau })),
      ),
    [table],
  );
  const draw = useMemo<Draw>(() => drawing(pairs), [pairs]);
  const numbers = useMemo(
    () => ({
      columns: ["Method", "Beside", "Kendall’s τ"],
      rows: pairs.map(({ one, other, tau }) => [one, other, words(tau)]),
    }),
    [pairs],
  );
  return (
    <Chart title="Rank correlation of the methods" draw={draw} table={numbers}>
      Kendall’s τ of each pair: 1 is the same order, 0 unrelated, −1 the reverse. Blue agrees, orange
      disagrees.
    </Chart>
  );
}

function drawing(pairs: readonly Pair[]): Draw {
  const methods = [...new Set(pairs.map((pair) => pair.one))];
  const colour = ({ tau }: Pair) => ((tau ?? 0) < 0 ? "var(--series-2)" : "var(--series-1)");
  return (plot, width) => {
    const room = (width - 174) / methods.length;
    const { rotate, pixels } = slanted(methods, room);
    return {
      height: methods.length * 26 + pixels + 32,
      marginLeft: 150,
      marginBottom: pixels + 22,
      marginTop: 28,
      x: { type: "band", domain: methods },
      y: { type: "band", domain: methods, label: "Method" },
      marks: [
        plot.axisX({ tickRotate: rotate, label: "Method", labelOffset: pixels + 18, labelArrow: "none" }),
        plot.cell(pairs, {
          x: "other",
          y: "one",
          fill: colour,
          fillOpacity: ({ tau }: Pair) => Math.abs(tau ?? 0) * DARKEST,
          stroke: "var(--line)",
        }),
        ...(room < 27
          ? []
          : [plot.text(pairs, { x: "other", y: "one", text: ({ tau }: Pair) => words(tau), fill: "var(--text)", fontSize: 11 })]),
      ],
      color: { type: "identity" },
      opacity: { type: "identity" },
    };
  };
}

function words(tau: number | null): string {
  return tau == null ? "–" : tau.toFixed(1).replace("-", "−");
}
