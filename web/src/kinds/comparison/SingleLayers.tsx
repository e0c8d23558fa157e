import { useCallback, useMemo } from "react";
import { api, bodyOf, type Job, type Schemas } from "../../api/client";
import { useOnce } from "../../api/useOnce";
import { Chart, type Draw } from "../../charts/Chart";
import { Intervals } from "../../charts/Intervals";
import { digits, metricTitle, shortNames } from "../../charts/names";
import { orderOf } from "../../charts/ranks";
import type { RankingResult } from "../../charts/results";
import { Failure } from "../../ui/Failure";

interface Props {
  of: Schemas["SingleLayers"];
  metric: string;
}

/** What training each layer alone gained, and how well each method's scores said so before. */
export function SingleLayers({ of, metric }: Props) {
  const gains = useMemo(() => gainsOf(of), [of]);
  const agreement = useMemo(
    () =>
      of.methods.flatMap(({ method, spearman, spearman_ci: ci }) =>
        spearman === null ? [] : [{ name: method, mean: spearman, ci }],
      ),
    [of],
  );
  if (gains.length === 0) {
    return (
      <section className="card part">
        <h2>Each layer alone</h2>
        <p className="muted">No layer has a gain: no seed has both a run of a layer and one of the baseline.</p>
      </section>
    );
  }
  const what = of.baseline === null ? metricTitle(metric) : `Gain in ${metric}`;
  return (
    <section className="card part">
      <h2>Each layer alone</h2>
      <div className="charts">
        <Intervals title="What each layer alone gained" label={`${what} (no unit)`} what="Layer" rows={gains} line={0}>
          From the bottom of the model{of.baseline !== null && `, over the arm ${of.baseline}`}: means over the seeds with their 95 % t intervals.
        </Intervals>
        {agreement.length > 0 ? (
          <Intervals title="How well scores predicted the gains" label="Spearman’s rank correlation (no unit)" what="Method" rows={agreement} line={0}>
            {of.recommended === null ? "No method is clearly better than fisher. " : `${of.recommended} is clearly better than fisher. `}
            Intervals are over resamples of the seeds, from three seeds on.
          </Intervals>
        ) : (
          <p className="muted">There are no scores to compare with: the ranking failed, or no correlation is defined.</p>
        )}
      </div>
      {of.ranking !== null && <Profiles ranking={of.ranking} of={of} what={what} />}
    </section>
  );
}

function gainsOf({ layers }: Schemas["SingleLayers"]) {
  const short = shortNames(layers.map((layer) => layer.layer));
  return layers.flatMap(({ layer, gain }) =>
    gain ? [{ name: short.get(layer) ?? layer, mean: gain.mean, ci: gain.ci }] : [],
  );
}

interface Point {
  method: string;
  layer: string;
  rank: number;
  gain: number;
}

function Profiles({ ranking, of, what }: { ranking: string; of: Schemas["SingleLayers"]; what: string }) {
  const ask = useCallback(
    (signal: AbortSignal) => {
      const params = { path: { job_id: ranking } };
      return bodyOf(api.GET("/v1/jobs/{job_id}", { params, signal }));
    },
    [ranking],
  );
  const { data: answer, error } = useOnce(ask);
  const methods = ((answer as Job | null)?.result as RankingResult | null | undefined)?.methods;
  const points = useMemo(() => (methods ? pointsOf(of, methods) : []), [of, methods]);
  const draw = useMemo<Draw>(() => drawing(points, what), [points, what]);
  const table = useMemo(
    () => ({
      columns: ["Method", "Layer", "Rank by the method", what],
      rows: points.map(({ method, layer, rank, gain }) => [method, layer, rank, digits(gain)]),
    }),
    [points, what],
  );
  if (error !== null) return <Failure error={error} />;
  if (!answer) return <p className="muted">Loading the scores …</p>;
  if (points.length === 0) return <p className="muted">The ranking has no table of methods to compare with.</p>;
  return (
    <Chart title="Gains beside every method’s order" draw={draw} table={table}>
      A box is a method: the gain of each layer by its rank there. Where scores predict the gains, the
      dots fall from left to right.
    </Chart>
  );
}

function pointsOf({ layers }: Schemas["SingleLayers"], { methods }: Schemas["MethodTable"]): Point[] {
  const gains = new Map(layers.map(({ layer, gain }) => [layer, gain?.mean]));
  return methods.flatMap(({ method, scores }) =>
    orderOf(scores).flatMap((layer, index) => {
      const gain = gains.get(layer);
      return gain == null ? [] : [{ method, layer, rank: index + 1, gain }];
    }),
  );
}

const BOX_PIXELS = { width: 175, height: 150 };

function drawing(points: readonly Point[], what: string): Draw {
  const methods = [...new Set(points.map((point) => point.method))];
  const most = Math.max(...points.map((point) => point.rank), 2);
  return (plot, width) => {
    const across = Math.max(1, Math.min(methods.length, Math.floor((width - 70) / BOX_PIXELS.width)));
    const column = ({ method }: Point) => methods.indexOf(method) % across;
    const row = ({ method }: Point) => Math.floor(methods.indexOf(method) / across);
    const titles = methods.map((method) => ({ method, layer: "", rank: 0, gain: 0 }));
    const faceted = { fx: column, fy: row };
    return {
      height: Math.ceil(methods.length / across) * BOX_PIXELS.height + 80,
      marginLeft: 62,
      marginRight: 12,
      marginTop: 40,
      marginBottom: 48,
      fx: { axis: null, padding: 0.12 },
      fy: { axis: null, padding: 0.28 },
      x: { label: "Rank by the method (1 is best)", labelOffset: 40, domain: [0.5, most + 0.5], ticks: Math.min(most, 4), tickFormat: "d", labelArrow: "none", labelAnchor: "center" },
      y: { label: `${what} (no unit)`, nice: true, ticks: 4, tickFormat: digits, labelArrow: "none" },
      marks: [
        plot.ruleY([0], { stroke: "var(--series-2)", strokeDasharray: "5 4" }),
        plot.ruleX([0.5], { stroke: "var(--line)" }),
        plot.dot(points, { x: "rank", y: "gain", r: 4, fill: "var(--series-1)", ...faceted }),
        plot.text(titles, { text: "method", frameAnchor: "top", dy: -13, fontWeight: 600, ...faceted }),
      ],
    };
  };
}
