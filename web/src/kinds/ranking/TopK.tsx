import { useMemo } from "react";
import { Chart, type Draw } from "../../charts/Chart";
import { shortNames } from "../../charts/names";
import type { RankingResult } from "../../charts/results";
import { percent } from "../../ui/format";

const ROW_PIXELS = 26;
const SHOWN = 32; // layers and values of k that there is room for
const DARKEST = 0.45; // so that the words on it stay legible

interface Cell {
  layer: string;
  k: number;
  p: number;
}

/** How probable it is that a layer is among the best k, for every k. */
export function TopK({ result }: { result: RankingResult }) {
  const { layers } = result;
  const cells = useMemo(() => cellsOf(layers), [layers]);
  const draw = useMemo<Draw>(() => drawing(cells), [cells]);
  const table = useMemo(
    () => ({
      columns: ["Layer", "k", "P(among the top k)"],
      rows: cells.map(({ layer, k, p }) => [layer, k, percent(p * 100)]),
    }),
    [cells],
  );
  if (cells.length === 0) {
    return <p className="muted">How probable each layer is among the top k is not known: nothing was resampled.</p>;
  }
  const unsure = result.stability.ambiguous_k ?? [];
  return (
    <Chart title="Probability of being among the top k" draw={draw} table={table}>
      Over {result.samples} rows, resampled.{" "}
      {unsure.length > 0
        ? `The set of the top k is not certain for k = ${unsure.join(", ")}.`
        : "For every k the set of the top k recurs in at least 95 % of the resamples."}
      {layers.length > SHOWN && ` Drawn are the first ${SHOWN} layers; the table has all.`}
    </Chart>
  );
}

function cellsOf(layers: RankingResult["layers"]): Cell[] {
  const short = shortNames(layers.map((layer) => layer.name));
  return layers.flatMap(({ name, p_top_k: known }) =>
    Object.entries(known ?? {}).map(([k, p]) => ({ layer: short.get(name) ?? name, k: Number(k), p })),
  );
}

function drawing(all: readonly Cell[]): Draw {
  const layers = [...new Set(all.map((cell) => cell.layer))].slice(0, SHOWN);
  const cells = all.filter((cell) => cell.k <= SHOWN && layers.includes(cell.layer));
  const counts = [...new Set(cells.map((cell) => cell.k))].sort((one, other) => one - other);
  const longest = Math.max(...layers.map((layer) => layer.length));
  return (plot, width) => {
    const left = Math.min(width * 0.4, 7 * longest + 16);
    const room = (width - left) / counts.length;
    return {
      height: layers.length * ROW_PIXELS + 66,
      marginLeft: left,
      marginBottom: 46,
      x: { type: "band", domain: counts, label: "k (number of layers)", labelOffset: 38, labelArrow: "none", labelAnchor: "center" },
      y: { type: "band", domain: layers, label: null },
      opacity: { type: "identity" },
      marks: [
        plot.cell(cells, { x: "k", y: "layer", fill: "var(--series-1)", fillOpacity: (cell: Cell) => cell.p * DARKEST, stroke: "var(--line)" }),
        ...(room < 34
          ? []
          : [plot.text(cells, { x: "k", y: "layer", text: (cell: Cell) => percent(cell.p * 100), fill: "var(--text)" })]),
      ],
    };
  };
}
