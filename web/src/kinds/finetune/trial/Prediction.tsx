import type { Schemas } from "../../../api/client";
import { digits } from "../../../charts/names";
import type { PredictionResult } from "../../../charts/results";

/** What a checkpoint says about one row. */
export function Prediction({ result }: { result: PredictionResult }) {
  const row = result.predictions[0];
  if (!row) return <p>The answer is empty.</p>;
  return (
    <>
      {"value" in row && (
        <p>
          Predicted: <strong>{digits(row.value)}</strong>
        </p>
      )}
      {"label" in row && (
        <p>
          Predicted: <strong>{row.label}</strong>
        </p>
      )}
      {"labels" in row && (
        <p>
          Predicted: <strong>{row.labels.join(", ") || "no label"}</strong>
        </p>
      )}
      {"probabilities" in row && <Probabilities of={row.probabilities} />}
      {"words" in row && <Words of={row.words} />}
      {result.truncated > 0 && (
        <p className="muted">The row was longer than {result.max_length} tokens and was read only in part.</p>
      )}
    </>
  );
}

function Probabilities({ of }: { of: readonly Schemas["LabelProbability"][] }) {
  return (
    <table aria-label="Probabilities">
      <thead>
        <tr>
          <th scope="col">Label</th>
          <th scope="col">Probability</th>
        </tr>
      </thead>
      <tbody>
        {of.map(({ label, probability }) => (
          <tr key={label}>
            <td>{label}</td>
            <td>
              <meter min={0} max={1} value={probability} aria-label={`Probability of ${label}`} />{" "}
              {probability.toFixed(3)}
            </td>
          </tr>
        ))}
      </tbody>
    </table>
  );
}

function Words({ of }: { of: readonly Schemas["PredictedWord"][] }) {
  return (
    <table aria-label="Words">
      <thead>
        <tr>
          <th scope="col">Word</th>
          <th scope="col">Label</th>
          <th scope="col">Probability</th>
        </tr>
      </thead>
      <tbody>
        {of.map(({ label, probability }, index) => (
          <tr key={index}>
            <td>{index + 1}</td>
            <td>{label ?? "not read"}</td>
            <td>{digits(probability)}</td>
          </tr>
        ))}
      </tbody>
    </table>
  );
}
