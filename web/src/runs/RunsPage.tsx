import { useWindowVirtualizer } from "@tanstack/react-virtual";
import { useEffect, useRef, useState } from "react";
import type { PageProps } from "../app/pages";
import { Failure } from "../ui/Failure";
import { useTitle } from "../ui/useTitle";
import { Filters } from "./Filters";
import { requestQuery } from "./filters";
import { COLUMNS, JobCells } from "./JobRow";
import { jobsOf } from "./listing";
import { useListing, type LiveListing } from "./useListing";

const ROW_PIXELS = 57; // a guess, until a row has been measured
const AHEAD = 30; // rows before the end at which the next page is asked for

export default function RunsPage({ place }: PageProps) {
  useTitle("Runs");
  const listing = useListing(requestQuery(place.query).toString());
  return (
    <>
      <h1>Runs</h1>
      <Filters filters={place.query} />
      <Failure error={listing.error} />
      <Rows live={listing} filtered={place.query.size > 0} />
    </>
  );
}

function Rows({ live, filtered }: { live: LiveListing; filtered: boolean }) {
  const { listing, known, more, show } = live;
  const jobs = jobsOf(listing);
  const body = useRef<HTMLDivElement>(null);
  const above = useOffset(body);
  const rows = useWindowVirtualizer({
    count: jobs.length,
    estimateSize: () => ROW_PIXELS,
    getItemKey: (index) => jobs[index]?.id ?? index,
    overscan: 8,
    scrollMargin: above,
  });
  const shown = rows.getVirtualItems();
  const first = shown[0]?.index ?? 0;
  const last = shown.at(-1)?.index ?? 0;
  useEffect(() => {
    show(first, last);
    if (last >= jobs.length - AHEAD) more();
  }, [first, last, jobs.length, listing.more, more, show]);
  if (known && jobs.length === 0) return <Nothing filtered={filtered} />;
  return (
    <>
      <div role="table" aria-label="Runs" aria-busy={!known} aria-rowcount={listing.more ? -1 : jobs.length + 1} className="runs">
        <div role="rowgroup" className="runs-head">
          <div role="row" className="runs-row">
            {COLUMNS.map((title) => (
              <div role="columnheader" key={title}>
                {title}
              </div>
            ))}
          </div>
        </div>
        <div role="rowgroup" ref={body} className="runs-body" style={{ height: rows.getTotalSize() }}>
          {shown.map(({ index, key, start }) => {
            const job = jobs[index];
            return (
              job && (
                <div
                  role="row"
                  key={key}
                  ref={rows.measureElement}
                  data-index={index}
                  aria-rowindex={index + 2}
                  className="runs-row"
                  style={{ transform: `translateY(${start - above}px)` }}
                >
                  <JobCells job={job} />
                </div>
              )
            );
          })}
        </div>
      </div>
      {(!known || listing.more) && <p className="muted">Loading …</p>}
    </>
  );
}

/** How far an element lies below the top of the document; it moves when the filters wrap. */
function useOffset(element: React.RefObject<HTMLElement | null>): number {
  const [offset, setOffset] = useState(0);
  useEffect(() => {
    const measure = () => {
      const box = element.current?.getBoundingClientRect();
      if (box) setOffset(Math.round(box.top + window.scrollY));
    };
    const watcher = new ResizeObserver(measure);
    watcher.observe(document.body);
    measure();
    return () => watcher.disconnect();
  }, [element]);
  return offset;
}

function Nothing({ filtered }: { filtered: boolean }) {
  return (
    <section className="card">
      <h2>{filtered ? "No run passes these filters" : "There are no runs yet"}</h2>
      {!filtered && (
        <p>
          Submit one with <code>surgeon rank</code>, <code>surgeon tune</code> or a request; the{" "}
          <a href="docs">documentation of the API</a> has an example of each.
        </p>
      )}
    </section>
  );
}
