/**
 * A job's events as they happen. EventSource cannot send an Authorization header, so the stream is
 * read with fetch; it is opened again with Last-Event-ID, so that no event is lost and none doubled.
 */
import { EventSourceParserStream } from "eventsource-parser/stream";
import { send, type Schemas } from "./client";
import { Problem } from "./problem";

export type JobEvent = Schemas["EventView"];

export interface Follower {
  onEvent: (event: JobEvent) => void;
  /** Something has happened that is no event of its own, such as progress. */
  onChange: () => void;
}

const RETRY_MILLISECONDS = 2000;

/** Follows until the job has ended or the signal is aborted. Throws Problem if it is refused. */
export async function followJob(
  id: string,
  after: number,
  follower: Follower,
  signal: AbortSignal,
): Promise<void> {
  let seen = after;
  const note = (event: JobEvent) => {
    if (event.seq <= seen) return;
    seen = event.seq;
    follower.onEvent(event);
  };
  const stopped = () => signal.aborted;
  while (!stopped()) {
    try {
      if (await readStream(id, seen, { ...follower, onEvent: note }, signal)) return;
    } catch (error) {
      if (stopped()) return;
      if (error instanceof Problem && !error.document.retriable) throw error;
    }
    await new Promise((resolve) => setTimeout(resolve, RETRY_MILLISECONDS));
  }
}

/** Reads one stream to its end; whether the job has ended. */
async function readStream(
  id: string,
  seen: number,
  follower: Follower,
  signal: AbortSignal,
): Promise<boolean> {
  const headers = { Accept: "text/event-stream", "Last-Event-ID": String(seen) };
  const path = `./v1/jobs/${encodeURIComponent(id)}/events`;
  const response = await send(new Request(path, { headers, signal, cache: "no-store" }));
  if (!response.body) return false;
  const messages = response.body
    .pipeThrough(new TextDecoderStream() as ReadableWritablePair<string, Uint8Array<ArrayBuffer>>)
    .pipeThrough(new EventSourceParserStream());
  const reader = messages.getReader();
  for (let next = await reader.read(); !next.done; next = await reader.read()) {
    const message = next.value;
    if (message.id) follower.onEvent(JSON.parse(message.data) as JobEvent);
    follower.onChange();
    if (message.event === "done") return true;
  }
  return false;
}
