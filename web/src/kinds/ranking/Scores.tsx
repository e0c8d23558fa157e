import { useMemo } from "react";
import { Intervals } from "../../charts/Intervals";
import { digits, shortNames } from "../../charts/names";
import type { RankingResult } from "../../charts/results";
import { percent } from "../../ui/format";

/** The scores of the layers, and those of the rest of the model, which are on another scale. */
export function Scores({ result }: { result: RankingResult }) {
  const { layers, groups } = result;
  const rows = useMemo(() => {
    const short = shortNames(layers.map((layer) => layer.name));
    return layers.map(({ name, score, ci, share }) => ({
      name: short.get(name) ?? name,
      mean: score,
      ci: ci ?? null,
      note: percent(share * 100),
    }));
  }, [layers]);
  const scored = useMemo(
    () => groups.flatMap(({ name, score }) => (score == null ? [] : [{ name, mean: score, ci: null, note: digits(score) }])),
    [groups],
  );
  const unscored = groups.filter((group) => group.score == null).map((group) => group.name);
  const intervals = layers.some((layer) => layer.ci);
  return (
    <div className="charts">
      <Intervals title="Scores of the layers" label={unit(result)} what="Layer" rows={rows} bars>
        Best first.{" "}
        {intervals
          ? "The whisker is the 95 % bootstrap interval"
          : "There are no intervals: single rows have no score, or a few rows make up all of it"}
        ; beside it is the share of the sum of all scores.
      </Intervals>
      {scored.length > 0 && (
        <Intervals title="The rest of the model" label={unit(result)} what="Part" rows={scored} bars>
          Scored in the same way, on a scale of its own, and never ranked.
          {unscored.length > 0 && ` Not scored: ${unscored.join(", ")}.`}
        </Intervals>
      )}
    </div>
  );
}

function unit({ method, aggregate, minus }: RankingResult): string {
  if (minus) return "Above shuffled labels (standard errors)";
  if (aggregate === null) return `Score by ${method} (no unit)`;
  return `Fisher information, ${aggregate} (no unit)`;
}
