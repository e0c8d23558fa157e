import { useEffect, useState } from "react";

export interface Once<T> {
  readonly data: T | null;
  readonly error: unknown;
  readonly loading: boolean;
}

/**
 * The answer to a question that is asked once. `ask` must keep its identity as long as it asks for
 * the same; null asks nothing. `pause` in milliseconds lets a reader type on before it is asked.
 */
export function useOnce<T>(ask: ((signal: AbortSignal) => Promise<T>) | null, pause = 0): Once<T> {
  const [answer, setAnswer] = useState<{ to: unknown; data: T | null; error: unknown }>();
  useEffect(() => {
    if (!ask) return;
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
  }, [ask, pause]);
  if (ask && answer?.to === ask) return { ...answer, loading: false };
  return { data: null, error: null, loading: ask !== null };
}
