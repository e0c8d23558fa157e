import { clock, moment } from "./format";

/** A time in the reader's locale; `short` leaves out the day. */
export function Moment({ at, short = false }: { at: string | null | undefined; short?: boolean }) {
  if (!at) return <>–</>;
  return (
    <time dateTime={at} title={moment(at)}>
      {short ? clock(at) : moment(at)}
    </time>
  );
}
