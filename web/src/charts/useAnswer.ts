import { useEffect, useState } from "react";
import { describe, type ProblemDocument } from "../api/problem";

interface Asked<T> {
  /** The last answer, which may be to an earlier question. */
  readonly answer: T | null;
  readonly problem: ProblemDocument | null;
}

/** The answer to a question that is asked once; `ask` must keep its identity as long as it is the same. */
export function useAnswer<T>(ask: (signal: AbortSignal) => Promise<T>): Asked<T> {
  const [state, setState] = useState<Asked<T>>({ answer: null, problem: null });
  useEffect(() => {
    const stop = new AbortController();
    ask(stop.signal).then(
      (answer) => !stop.signal.aborted && setState({ answer, problem: null }),
      (error: unknown) => !stop.signal.aborted && setState({ answer: null, problem: describe(error) }),
    );
    return () => stop.abort();
  }, [ask]);
  return state;
}
