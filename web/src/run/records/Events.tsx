import { useEffect, useRef, useState } from "react";
import { followJob, type JobEvent } from "../../api/events";
import { describe, type ProblemDocument } from "../../api/problem";
import { useVisible } from "../../api/useVisible";
import { Moment } from "../../ui/Moment";
import { ProblemBox } from "../../ui/ProblemBox";

const KEPT = 1000;

interface Props {
  id: string;
  /** Something has happened to the job, which may look different now. */
  onChange: () => void;
}

/** What happens to the job, as it happens; newest first. */
export function Events({ id, onChange }: Props) {
  const [events, setEvents] = useState<readonly JobEvent[]>([]);
  const [problem, setProblem] = useState<ProblemDocument | null>(null);
  const seen = useRef(0);
  const visible = useVisible();
  useEffect(() => {
    if (!visible) return;
    const stop = new AbortController();
    const onEvent = (event: JobEvent) => {
      if (stop.signal.aborted) return;
      seen.current = event.seq;
      setEvents((known) => [event, ...known].slice(0, KEPT));
    };
    followJob(id, seen.current, { onEvent, onChange }, stop.signal).catch((error: unknown) =>
      setProblem(describe(error)),
    );
    return () => stop.abort();
  }, [id, visible, onChange]);
  return (
    <section className="card">
      <h2>Events</h2>
      {problem && <ProblemBox problem={problem} />}
      {events.length === KEPT && <p className="muted">The newest {KEPT} of them.</p>}
      <ol className="records" tabIndex={0} aria-label="Events">
        {events.map((event) => (
          <li key={event.seq}>
            <Moment at={event.at} short /> <strong>{event.type}</strong> <span>{detailsOf(event)}</span>
          </li>
        ))}
      </ol>
    </section>
  );
}

/** The details of an event as `name value`, whatever they are. */
function detailsOf({ data }: JobEvent): string {
  return Object.entries(data)
    .filter(([, value]) => value !== null)
    .map(([name, value]) => `${name} ${typeof value === "string" ? value : JSON.stringify(value)}`)
    .join(" · ");
}
