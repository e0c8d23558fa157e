/** The options of each kind that have a field of their own; the others are in the JSON. */
import type { Kind } from "./request";

export interface Group {
  readonly title: string;
  readonly pointers: readonly string[];
}

const TRAINING: Group = {
  title: "Training",
  pointers: ["epochs", "learning_rate", "batch_size", "max_length", "seed"].map(
    (name) => `/training/${name}`,
  ),
};
const RUN: Group = { title: "The run", pointers: ["/name", "/priority"] };

export const GROUPS: Readonly<Record<Kind, readonly Group[]>> = {
  ranking: [
    {
      title: "Scores",
      pointers: ["/method", "/fisher", "/aggregate", "/granularity", "/samples", "/max_length", "/batch_size", "/seed", "/model_prior", "/adaptive"],
    },
    RUN,
  ],
  finetune: [
    {
      title: "Layers",
      pointers: ["/selection/policy", "/selection/k", "/selection/share", "/selection/layers", "/selection/ranking", "/adapter/type"],
    },
    TRAINING,
    { title: "Checkpoints", pointers: ["/checkpoints/form", "/checkpoints/onnx"] },
    RUN,
  ],
  comparison: [
    { title: "Repetitions", pointers: ["/seeds", "/single_layers"] },
    { ...TRAINING, pointers: TRAINING.pointers.filter((pointer) => pointer !== "/training/seed") },
    RUN,
  ],
  search: [
    {
      title: "Candidates",
      pointers: ["/families", "/learning_rates", "/budget_share", "/budget_seconds", "/confidence", "/seed"],
    },
    { ...TRAINING, pointers: TRAINING.pointers.filter((pointer) => pointer !== "/training/learning_rate") },
    RUN,
  ],
};
