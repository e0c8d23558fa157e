import { useEffect, useRef, useState } from "react";
import { api, bodyOf, type Job } from "../../../api/client";
import { ConnectionLost, describe, type ProblemDocument } from "../../../api/problem";
import { useVisible } from "../../../api/useVisible";
import { merged, type Measured } from "./curves";

const EVERY_MILLISECONDS = 2000;
const PAGE = 200;

interface Measurements {
  readonly measured: readonly Measured[];
  readonly problem: ProblemDocument | null;
  /** Whether everything that is there by now was read. */
  readonly read: boolean;
}

interface Position {
  measured: readonly Measured[];
  cursor: string | null;
}

/**
 * What a run has measured, from its beginning, and what is added while it runs: when its events say
 * that something has happened, and every two seconds. It is read by the cursor of the last page and
 * not by `after_step`, which would miss the steps that an interrupted run writes again.
 */
export function useMeasurements(job: Job): Measurements {
  const [state, setState] = useState<Measurements>({ measured: [], problem: null, read: false });
  const position = useRef<Position>({ measured: [], cursor: null });
  const visible = useVisible();
  const { id, terminal, updated_at: changed } = job;
  useEffect(() => {
    if (!visible) return;
    const stop = new AbortController();
    const over = () => stop.signal.aborted;
    const follow = async () => {
      do {
        try {
          await readOn(id, position, stop.signal);
          if (!over()) setState({ measured: position.current.measured, problem: null, read: true });
        } catch (error) {
          const silent = over() || error instanceof ConnectionLost;
          if (!silent) setState((last) => ({ ...last, problem: describe(error) }));
          if (terminal && !silent) return;
        }
        if (terminal && position.current.cursor !== null) return;
        await new Promise((resolve) => setTimeout(resolve, EVERY_MILLISECONDS));
      } while (!over());
    };
    void follow();
    return () => stop.abort();
  }, [id, terminal, changed, visible]);
  return state;
}

/** Reads every page that is there after the position. */
async function readOn(id: string, at: { current: Position }, signal: AbortSignal): Promise<void> {
  for (let more = true; more; ) {
    const { cursor, measured } = at.current;
    const query = { limit: PAGE, ...(cursor === null ? {} : { cursor }) };
    const params = { path: { job_id: id }, query };
    const page = await bodyOf(api.GET("/v1/jobs/{job_id}/metrics", { params, signal }));
    if (signal.aborted) return;
    const next = new URLSearchParams(page.next.split("?")[1]).get("cursor");
    at.current = { cursor: next, measured: page.data.length ? merged(measured, page.data) : measured };
    more = page.has_more;
  }
}
