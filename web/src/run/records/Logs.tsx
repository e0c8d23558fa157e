import { useEffect, useLayoutEffect, useRef, useState } from "react";
import { api, bodyOf, type Job, type Schemas } from "../../api/client";
import { ConnectionLost, describe, type ProblemDocument } from "../../api/problem";
import { useVisible } from "../../api/useVisible";
import { bytes, clock, wholeNumber } from "../../ui/format";
import { ProblemBox } from "../../ui/ProblemBox";

const EVERY_MILLISECONDS = 2000;
const KEPT = 10_000; // lines, about what the service keeps of a log that is over

/** The log of an attempt, which grows while the attempt runs. */
export function Logs({ job }: { job: Job }) {
  // Null: the latest one.
  const [chosen, setChosen] = useState<number | null>(null);
  const latest = useAttemptCount(job);
  const shown = chosen ?? latest;
  return (
    <section className="card">
      <h2>Log</h2>
      {latest > 1 && (
        <label className="inline">
          Attempt{" "}
          <select value={shown} onChange={(event) => setChosen(Number(event.target.value))}>
            {Array.from({ length: latest }, (_, index) => (
              <option key={index}>{index + 1}</option>
            ))}
          </select>
        </label>
      )}
      {latest === 0 ? (
        <p className="muted">Nothing is written before a worker starts it.</p>
      ) : (
        <LogOf key={shown} id={job.id} attempt={shown} />
      )}
    </section>
  );
}

/** Attempts that were made: the times at which the job began to run. */
function useAttemptCount(job: Job): number {
  return job.transitions.filter((change) => change.status === "running").length;
}

interface Read {
  lines: readonly Schemas["LogLine"][];
  next: number;
  cut: number;
  /** Whether lines at the beginning were left out. */
  left: boolean;
  complete: boolean;
}

function LogOf({ id, attempt }: { id: string; attempt: number }) {
  const { read, problem } = useLog(id, attempt);
  const box = useRef<HTMLPreElement>(null);
  const atEnd = useRef(true);
  useLayoutEffect(() => {
    if (box.current && atEnd.current) box.current.scrollTop = box.current.scrollHeight;
  }, [read.lines]);
  const noteScroll = () => {
    const { scrollTop = 0, scrollHeight = 0, clientHeight = 0 } = box.current ?? {};
    atEnd.current = scrollTop + clientHeight >= scrollHeight - 30;
  };
  return (
    <>
      {problem && <ProblemBox problem={problem} />}
      {read.cut > 0 && <p className="muted">{bytes(read.cut)} in the middle were not kept.</p>}
      {read.left && <p className="muted">The newest {wholeNumber(KEPT)} lines.</p>}
      <pre ref={box} className="log" tabIndex={0} role="log" aria-label="Log" onScroll={noteScroll}>
        {read.lines.map((line) => `${timeOf(line.at)} ${line.source} ${line.text}\n`).join("")}
      </pre>
      {!read.complete && <p className="muted">Following …</p>}
    </>
  );
}

function timeOf(at: string): string {
  return Number.isNaN(Date.parse(at)) ? at : clock(at);
}

/** Reads a log from its beginning, and what is added until it is complete. */
function useLog(id: string, attempt: number): { read: Read; problem: ProblemDocument | null } {
  const [read, setRead] = useState<Read>({ lines: [], next: 0, cut: 0, left: false, complete: false });
  const [problem, setProblem] = useState<ProblemDocument | null>(null);
  const state = useRef(read);
  const visible = useVisible();
  useEffect(() => {
    if (!visible) return;
    const stop = new AbortController();
    const step = async () => {
      const after = state.current.next;
      const page = await readLog(id, attempt, after, stop.signal);
      if (stop.signal.aborted) return;
      const { lines: known, cut: before } = state.current;
      const lines = page.data.length ? [...known, ...page.data].slice(-KEPT) : known;
      const left = state.current.left || known.length + page.data.length > KEPT;
      const cut = Math.max(page.cut_bytes, before);
      state.current = { lines, next: page.next, cut, left, complete: page.complete };
      setRead(state.current);
      setProblem(null);
    };
    const over = () => stop.signal.aborted || state.current.complete;
    const follow = async () => {
      while (!over()) {
        await step().catch((error: unknown) => {
          if (!stop.signal.aborted && !(error instanceof ConnectionLost)) setProblem(describe(error));
        });
        if (!over()) await new Promise((resolve) => setTimeout(resolve, EVERY_MILLISECONDS));
      }
    };
    void follow();
    return () => stop.abort();
  }, [id, attempt, visible]);
  return { read, problem };
}

function readLog(id: string, attempt: number, after: number, signal: AbortSignal) {
  const params = { path: { job_id: id }, query: { attempt, after } };
  // As text it comes only to who asks for text.
  return bodyOf(api.GET("/v1/jobs/{job_id}/logs", { params, signal })) as Promise<Schemas["LogPage"]>;
}
