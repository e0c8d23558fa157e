import { useState } from "react";
import { describe, type ProblemDocument } from "./problem";

export interface Action {
  readonly busy: boolean;
  /** What the last one failed with. */
  readonly problem: ProblemDocument | null;
  /** Carries it out; whether it succeeded. */
  readonly run: (action: () => Promise<unknown>) => Promise<boolean>;
}

/** Something that is sent when a button is pressed, one at a time. */
export function useAction(): Action {
  const [busy, setBusy] = useState(false);
  const [problem, setProblem] = useState<ProblemDocument | null>(null);
  const run = async (action: () => Promise<unknown>) => {
    setBusy(true);
    setProblem(null);
    try {
      await action();
      return true;
    } catch (error) {
      setProblem(describe(error));
      return false;
    } finally {
      setBusy(false);
    }
  };
  return { busy, problem, run };
}
