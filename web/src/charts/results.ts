/** Results of jobs by their kind. */
import type { Job, Schemas } from "../api/client";

type Result = NonNullable<Job["result"]>;

export type RankingResult = Extract<Result, { recommended_k: unknown }>;
export type PredictionResult = Extract<Result, { predictions: unknown }>;
export type FinetuneResult = Schemas["FinetuneResult"];
export type ComparisonResult = Schemas["ComparisonResult"];
export type SearchResult = Schemas["SearchResult"];

/** What is in the place of charts while there is no result. */
export function missing(job: Job, what: string): string {
  if (job.status === "failed") return `The run failed, so there are no ${what}.`;
  if (job.status === "cancelled") return `The run was cancelled before there were ${what}.`;
  return `There are no ${what} yet: they come when the run has succeeded.`;
}
