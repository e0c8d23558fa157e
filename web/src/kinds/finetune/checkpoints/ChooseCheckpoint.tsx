import type { Schemas } from "../../../api/client";

type Checkpoint = Schemas["CheckpointView"];

interface Props {
  checkpoints: readonly Checkpoint[];
  chosen: string;
  choose: (id: string) => void;
}

export function ChooseCheckpoint({ checkpoints, chosen, choose }: Props) {
  return (
    <label>
      Checkpoint{" "}
      <select value={chosen} onChange={(event) => choose(event.target.value)}>
        {checkpoints.map((each) => (
          <option key={each.id} value={each.id}>
            step {each.step}
            {each.is_best ? ", the best" : ""}
          </option>
        ))}
      </select>
    </label>
  );
}

/** The best of them, or the last where the best was not kept. */
export function best(checkpoints: readonly Checkpoint[]): Checkpoint {
  const found = checkpoints.find((each) => each.is_best) ?? checkpoints.at(-1);
  if (!found) throw new Error("there are no checkpoints to choose from");
  return found;
}
