import type { Schemas } from "../../../api/client";
import { Field } from "../../../form/Field";
import "../../../form/form.css";

interface Props {
  checkpoints: readonly Schemas["CheckpointView"][];
  chosen: string;
  choose: (id: string) => void;
}

export function ChooseCheckpoint({ checkpoints, chosen, choose }: Props) {
  return (
    <Field label="Checkpoint">
      {(named) => (
        <select {...named} value={chosen} onChange={(event) => choose(event.target.value)}>
          {checkpoints.map((each) => (
            <option key={each.id} value={each.id}>
              step {each.step}
              {each.is_best ? ", the best" : ""}
            </option>
          ))}
        </select>
      )}
    </Field>
  );
}
