/**
 * A list of jobs, newest first, that is read page by page and kept current a page at a time.
 *
 * A cursor stands behind a certain job, so a page that begins at one has the same jobs whenever it
 * is read again, however many jobs are added at the top. Each page also ends where the next begins:
 * what no longer fits into one, because new jobs came, goes over to the next.
 */

/** What a list orders jobs by. */
export interface Listed {
  id: string;
  created_at: string;
}

export interface Fetched<T> {
  data: T[];
  next_cursor?: string | null | undefined;
}

interface Start {
  cursor: string;
  /** The job behind which the cursor stands. */
  after: Listed;
}

export interface Segment<T> {
  /** Null: the top of the list. */
  readonly start: Start | null;
  readonly jobs: readonly T[];
  readonly etag: string | null;
}

export interface Listing<T> {
  readonly segments: readonly Segment<T>[];
  /** Where the list goes on; null at its end. */
  readonly more: Start | null;
}

export const EMPTY: Listing<never> = { segments: [{ start: null, jobs: [], etag: null }], more: null };

export function jobsOf<T>(listing: Listing<T>): T[] {
  return listing.segments.flatMap((segment) => segment.jobs);
}

/** The segments that hold the jobs at these places of the list, counted from 0. */
export function segmentsBetween<T>(listing: Listing<T>, first: number, last: number): number[] {
  const found: number[] = [];
  let begin = 0;
  listing.segments.forEach((segment, index) => {
    const end = begin + segment.jobs.length;
    if (begin <= last && end > first) found.push(index);
    begin = end;
  });
  return found;
}

/** Put the answer to a request for what follows `more` at the end. */
export function extended<T extends Listed>(
  listing: Listing<T>,
  fetched: Fetched<T>,
  etag: string | null,
): Listing<T> {
  const segment = { start: listing.more, jobs: fetched.data, etag };
  return { segments: [...listing.segments, segment], more: startAfter(fetched) };
}

/** Put the answer to a request for what begins where a segment begins in its place. */
export function renewed<T extends Listed>(
  listing: Listing<T>,
  index: number,
  fetched: Fetched<T>,
  etag: string | null,
): Listing<T> {
  const old = listing.segments[index];
  if (!old) return listing;
  const before = listing.segments.slice(0, index);
  const [next, ...rest] = listing.segments.slice(index + 1);
  const on = startAfter(fetched);
  const end = next?.start?.after;
  if (!next || !on || (end && !isBefore(on.after, end))) {
    const jobs = end ? fetched.data.filter((job) => !isBefore(end, job)) : fetched.data;
    const segment = { start: old.start, jobs, etag };
    return next
      ? { segments: [...before, segment, next, ...rest], more: listing.more }
      : { segments: [...before, segment], more: on };
  }
  // The answer ends before the next segment begins: that one now begins where the answer ends.
  const pushed = old.jobs.filter((job) => isBefore(on.after, job));
  const grown = { start: on, jobs: [...pushed, ...next.jobs], etag: null };
  const segment = { start: old.start, jobs: fetched.data, etag };
  return { segments: [...before, segment, grown, ...rest], more: listing.more };
}

function startAfter<T extends Listed>({ data, next_cursor: cursor }: Fetched<T>): Start | null {
  const after = data.at(-1);
  return cursor && after ? { cursor, after } : null;
}

/** Whether one job comes before another in the list. */
function isBefore(one: Listed, other: Listed): boolean {
  if (one.created_at !== other.created_at) {
    return Date.parse(one.created_at) === Date.parse(other.created_at)
      ? one.created_at > other.created_at
      : Date.parse(one.created_at) > Date.parse(other.created_at);
  }
  return one.id > other.id;
}
