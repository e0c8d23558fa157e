import { useState, type SyntheticEvent } from "react";
import { api, bodyOf, idempotencyKey, type Job, type Schemas } from "../../../api/client";
import { describe, type ProblemDocument } from "../../../api/problem";
import { address, go } from "../../../app/router";
import { ProblemBox } from "../../../ui/ProblemBox";
import { ChooseCheckpoint, best } from "./ChooseCheckpoint";

const PLACES = {
  folder: "A folder of the service’s object store",
  mlflow: "MLflow, as a version of a registered model",
  hub: "The Hugging Face Hub, as a private repository owner/name",
} as const;
type Place = keyof typeof PLACES;

/** Hands a checkpoint's model over, as a run of its own. */
export function ExportForm({ checkpoints }: { checkpoints: readonly Schemas["CheckpointView"][] }) {
  const [chosen, setChosen] = useState<string | null>(null);
  const [to, setTo] = useState<Place>("folder");
  const [target, setTarget] = useState("");
  const [problem, setProblem] = useState<ProblemDocument | null>(null);
  const checkpoint = checkpoints.find((each) => each.id === chosen) ?? best(checkpoints);
  const submit = async (event: SyntheticEvent) => {
    event.preventDefault();
    setProblem(null);
    const form = checkpoint.form === "adapter" && to !== "mlflow" ? "adapter" : "full";
    const params = { path: { checkpoint_id: checkpoint.id }, header: { "Idempotency-Key": idempotencyKey() } };
    const body = { to, target: target.trim(), form } as Schemas["ExportRequest"];
    try {
      const made = await bodyOf(api.POST("/v1/checkpoints/{checkpoint_id}/exports", { params, body }));
      go(address(["runs", (made as Job).id]));
    } catch (error) {
      setProblem(describe(error));
    }
  };
  return (
    <details>
      <summary>Export a checkpoint</summary>
      <form className="fields" onSubmit={(event) => void submit(event)}>
        <ChooseCheckpoint checkpoints={checkpoints} chosen={checkpoint.id} choose={setChosen} />
        <label>
          To{" "}
          <select value={to} onChange={(event) => setTo(event.target.value as Place)}>
            {Object.entries(PLACES).map(([value, words]) => (
              <option key={value} value={value}>
                {words}
              </option>
            ))}
          </select>
        </label>
        <label>
          Name there
          <input required maxLength={96} value={target} onChange={(event) => setTarget(event.target.value)} />
        </label>
        {problem && <ProblemBox problem={problem} />}
        <div className="actions">
          <button type="submit">Export</button>
        </div>
      </form>
    </details>
  );
}
