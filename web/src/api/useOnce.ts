import { useEffect, useState } from "react";
import { connection } from "./connection";
import { useStore } from "./store";

export interface Once<T> {
  readonly data: T | null;
  /** The answer before it, until this one comes: what is shown does not flicker. */
  readonly last: T | null;
  readonly error: unknown;
  readonly loading: boolean;
}

interface Answer<T> {
  readonly to: unknown;
  readonly data: T | null;
  readonly error: unknown;
}

/**
 * The answer to a question that is asked once, and again after the connection was lost. `ask` must
 * keep its identity as long as it asks for the same; null asks nothing. `pause` in milliseconds lets
 * a reader type on before it is asked.
 */
export function useOnce<T>(ask: ((signal: AbortSignal) => Promise<T>) | null, pause = 0): Once<T> {
  const [answer, setAnswer] = useState<Answer<T>>({ to: null, data: null, error: null });
  const connected = useStore(connection) === "fine";
  useEffect(() => {
    if (!ask || !connected) return;
    const stop = new AbortController();
    const timer = setTimeout(() => {
      ask(stop.signal).then(
        (data) => !stop.signal.aborted && setAnswer({ to: ask, data, error: null }),
        (error: unknown) => !stop.signal.aborted && setAnswer({ to: ask, data: null, error }),
      );
    }, pause);
    return () => {
      clearTimeout(timer);
      stop.abort();
    };
  }, [ask, pause, connected]);
  const { to, data, error } = answer;
  if (ask && to === ask) return { data, last: data, error, loading: false };
  return { data: null, last: data, error: null, loading: ask !== null };
}
