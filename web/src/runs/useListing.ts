import { useEffect, useMemo, useRef, useState } from "react";
import { api, type Job } from "../api/client";
import { useVisible } from "../api/useVisible";
import { EMPTY, extended, renewed, segmentsBetween, type Fetched, type Listing } from "./listing";

const PAGE = 100;
const EVERY_MILLISECONDS = 3000;
const FIELDS =
  "id,kind,name,status,phase,terminal,progress,queue,cancel_requested,pause_requested," +
  "created_at,started_at,finished_at,spec";

type ListedField =
  | "id" | "kind" | "name" | "status" | "phase" | "terminal" | "progress" | "queue"
  | "cancel_requested" | "pause_requested" | "created_at" | "started_at" | "finished_at" | "spec";
export type ListedJob = Pick<Job, ListedField>;

interface State {
  readonly listing: Listing<ListedJob>;
  /** Whether the first answer has come. */
  readonly known: boolean;
  readonly error: unknown;
}

export interface LiveListing extends State {
  /** Read a further page, if there is one. */
  readonly more: () => void;
  /** Which jobs are on the screen, by their place; these are kept current, and the top is. */
  readonly show: (first: number, last: number) => void;
}

/** The jobs that pass a query, newest first, kept current while the page is visible. */
export function useListing(query: string): LiveListing {
  const visible = useVisible();
  const [state, setState] = useState<State>({ listing: EMPTY, known: false, error: null });
  const reader = useRef<Reader | null>(null);
  useEffect(() => {
    reader.current = new Reader(query, setState);
    return () => reader.current?.stop();
  }, [query]);
  useEffect(() => {
    const current = reader.current;
    if (!visible || !current) return;
    current.start();
    return () => current.stop();
  }, [query, visible]);
  const calls = useMemo(
    () => ({
      more: () => reader.current?.more(),
      show: (first: number, last: number) => reader.current?.show(first, last),
    }),
    [],
  );
  return { ...state, ...calls };
}

/** One request at a time: a further page where one is wanted, else what is on the screen. */
class Reader {
  #state: State = { listing: EMPTY, known: false, error: null };
  #shown: [number, number] = [0, 0];
  #wanted = false;
  #wake: () => void = () => undefined;
  #running = new AbortController();

  constructor(
    private readonly query: string,
    private readonly tell: (state: State) => void,
  ) {
    tell(this.#state);
  }

  start(): void {
    this.#running.abort();
    this.#running = new AbortController();
    void this.#run(this.#running.signal);
  }

  stop(): void {
    this.#running.abort();
  }

  more(): void {
    if (this.#wanted || !this.#state.listing.more) return;
    this.#wanted = true;
    this.#wake();
  }

  show(first: number, last: number): void {
    this.#shown = [first, last];
  }

  async #run(signal: AbortSignal): Promise<void> {
    while (!signal.aborted) {
      try {
        if (this.#wanted) await this.#extend(signal);
        else await this.#renew(signal);
        this.#set({ error: null }, signal);
      } catch (error) {
        this.#set({ error }, signal);
        this.#wanted = false;
      }
      if (!this.#wanted) await this.#pause(signal);
    }
  }

  async #extend(signal: AbortSignal): Promise<void> {
    const { more } = this.#state.listing;
    const answer = more && (await this.#fetch(more.cursor, null, signal));
    if (answer?.page) {
      this.#set({ listing: extended(this.#state.listing, answer.page, answer.etag) }, signal);
    }
    this.#wanted = false;
  }

  async #renew(signal: AbortSignal): Promise<void> {
    const shown = segmentsBetween(this.#state.listing, ...this.#shown);
    for (const index of new Set([0, ...shown])) {
      const segment = this.#state.listing.segments[index];
      if (!segment) continue;
      const { page, etag } = await this.#fetch(segment.start?.cursor, segment.etag, signal);
      if (!page) continue;
      const listing = renewed(this.#state.listing, index, page, etag);
      this.#set({ listing, known: true }, signal);
    }
  }

  #set(change: Partial<State>, signal: AbortSignal): void {
    if (signal.aborted) return;
    this.#state = { ...this.#state, ...change };
    this.tell(this.#state);
  }

  async #fetch(cursor: string | undefined, etag: string | null, signal: AbortSignal) {
    const query = new URLSearchParams(this.query);
    query.set("limit", String(PAGE));
    query.set("fields", FIELDS);
    if (cursor) query.set("cursor", cursor);
    const { data, response } = await api.GET("/v1/jobs", {
      querySerializer: () => query.toString(),
      headers: etag ? { "If-None-Match": etag } : {},
      signal,
    });
    const page: Fetched<ListedJob> | null = response.status === 304 ? null : (data ?? null);
    return { page, etag: response.headers.get("ETag") };
  }

  #pause(signal: AbortSignal): Promise<void> {
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, EVERY_MILLISECONDS);
      this.#wake = () => {
        clearTimeout(timer);
        resolve();
      };
      signal.addEventListener("abort", this.#wake, { once: true });
    });
  }
}
