import { useCallback, useEffect, useRef, useState } from "react";
import { useVisible } from "./useVisible";

/** What a polled request is sent with. */
export interface Sending {
  signal: AbortSignal;
  headers: Record<string, string>;
}

export interface Polled<T> {
  readonly data: T | null;
  /** What the last request failed with; null after one that succeeded. */
  readonly error: unknown;
  /** Ask at once. */
  readonly refresh: () => void;
}

interface Answer<T> {
  data?: T;
  response: Response;
}

/**
 * Asks again and again while the page is visible, with the ETag of the last answer, so that an
 * unchanged one costs no body. `ask` must keep its identity as long as it asks for the same.
 * `every` is the pause in milliseconds, which may depend on what was answered.
 */
export function usePolled<T>(
  ask: (sending: Sending) => Promise<Answer<T>>,
  every: (data: T | null) => number,
): Polled<T> {
  const [state, setState] = useState<{ data: T | null; error: unknown }>({ data: null, error: null });
  const visible = useVisible();
  const pause = useRef(every);
  const wake = useRef<() => void>(() => undefined);
  useEffect(() => {
    pause.current = every;
  });

  useEffect(() => {
    if (!visible) return;
    const stop = new AbortController();
    const loop = new Loop(ask, stop.signal);
    wake.current = loop.wake;
    void loop.run(
      (data) => pause.current(data),
      (data, error) => setState((last) => ({ data: data ?? last.data, error })),
    );
    return () => stop.abort();
  }, [ask, visible]);

  const refresh = useCallback(() => wake.current(), []);
  return { ...state, refresh };
}

class Loop<T> {
  #etag: string | null = null;
  #data: T | null = null;
  #asked = false;
  #endPause: () => void = () => undefined;

  constructor(
    private readonly ask: (sending: Sending) => Promise<Answer<T>>,
    private readonly signal: AbortSignal,
  ) {}

  /** Ask now, or once more if a question is under way, whose answer may be older than this call. */
  readonly wake = (): void => {
    this.#asked = true;
    this.#endPause();
  };

  async run(pause: (data: T | null) => number, tell: (data: T | null, error: unknown) => void) {
    while (!this.#stopped()) {
      this.#asked = false;
      const error = await this.#once();
      if (this.#stopped()) return;
      tell(this.#data, error);
      await this.#wait(pause(this.#data));
    }
  }

  #stopped(): boolean {
    return this.signal.aborted;
  }

  /** One question; what it failed with. */
  async #once(): Promise<unknown> {
    const headers: Record<string, string> = this.#etag ? { "If-None-Match": this.#etag } : {};
    try {
      const { data, response } = await this.ask({ signal: this.signal, headers });
      if (response.status !== 304) {
        this.#data = data ?? null;
        this.#etag = response.headers.get("ETag");
      }
      return null;
    } catch (error) {
      return error;
    }
  }

  #wait(milliseconds: number): Promise<void> {
    return new Promise((resolve) => {
      if (this.#asked) return resolve();
      const timer = setTimeout(resolve, milliseconds);
      this.#endPause = () => {
        clearTimeout(timer);
        resolve();
      };
      this.signal.addEventListener("abort", this.#endPause, { once: true });
    });
  }
}
