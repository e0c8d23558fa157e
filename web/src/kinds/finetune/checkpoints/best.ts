import type { Schemas } from "../../../api/client";

type Checkpoint = Schemas["CheckpointView"];

/** The best of them, or the last where the best was not kept. */
export function best(checkpoints: readonly Checkpoint[]): Checkpoint {
  const found = checkpoints.find((each) => each.is_best) ?? checkpoints.at(-1);
  if (!found) throw new Error("there are no checkpoints to choose from");
  return found;
}
