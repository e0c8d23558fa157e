import { ConnectionLost, describe } from "../api/problem";
import { ProblemBox } from "./ProblemBox";

/** What a polled request failed with; nothing if it did not, or if the banner says it already. */
export function Failure({ error }: { error: unknown }) {
  if (error === null || error instanceof ConnectionLost) return null;
  return <ProblemBox problem={describe(error)} />;
}
