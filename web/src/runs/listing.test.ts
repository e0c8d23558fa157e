import { expect, test } from "vitest";
import { EMPTY, extended, jobsOf, renewed, segmentsBetween, type Listed, type Listing } from "./listing";

const LIMIT = 3;

/** Jobs by number: a higher one is newer. */
const jobs = (...numbers: number[]): Listed[] =>
  numbers.map((number) => ({
    id: `rk_${number}`,
    created_at: new Date(number * 1000).toISOString(),
  }));

/** A service that holds these jobs, newest first, and pages through them by keyset. */
function answer(held: Listed[], cursor?: string) {
  const rest = cursor ? held.filter((job) => Number(job.id.slice(3)) < Number(cursor)) : held;
  const data = rest.slice(0, LIMIT);
  const last = data.at(-1);
  return { data, next_cursor: rest.length > LIMIT && last ? last.id.slice(3) : null };
}

function readAll(held: Listed[]): Listing<Listed> {
  let listing: Listing<Listed> = renewed(EMPTY, 0, answer(held), null);
  while (listing.more) listing = extended(listing, answer(held, listing.more.cursor), null);
  return listing;
}

function renewAll(listing: Listing<Listed>, held: Listed[]): Listing<Listed> {
  let current = listing;
  for (let index = 0; index < current.segments.length; index++) {
    const cursor = current.segments[index]?.start?.cursor;
    current = renewed(current, index, answer(held, cursor), null);
  }
  while (current.more) current = extended(current, answer(held, current.more.cursor), null);
  return current;
}

test("pages follow each other without gap or repetition", () => {
  const held = jobs(8, 7, 6, 5, 4, 3, 2, 1);
  expect(jobsOf(readAll(held))).toEqual(held);
});

test.each([
  ["one new job", jobs(9, 8, 7, 6, 5, 4, 3, 2, 1)],
  ["more new jobs than a page has", jobs(14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1)],
  ["deleted jobs", jobs(8, 5, 4, 1)],
  ["new and deleted jobs", jobs(10, 9, 8, 6, 4, 3, 1)],
  ["nothing left", []],
])("%s show once the pages are read again", (_, held) => {
  let listing = readAll(jobs(8, 7, 6, 5, 4, 3, 2, 1));
  for (let round = 0; round < 4; round++) listing = renewAll(listing, held);
  expect(jobsOf(listing)).toEqual(held);
});

test("what a new job pushes off the first page is in the list before the next page is read", () => {
  const listing = readAll(jobs(5, 4, 3, 2, 1));
  const held = jobs(6, 5, 4, 3, 2, 1);
  expect(jobsOf(renewed(listing, 0, answer(held), null))).toEqual(held);
});

test("only the pages that are on the screen are read again", () => {
  const listing = readAll(jobs(8, 7, 6, 5, 4, 3, 2, 1));
  expect(segmentsBetween(listing, 0, 1)).toEqual([0]);
  expect(segmentsBetween(listing, 2, 3)).toEqual([0, 1]);
  expect(segmentsBetween(listing, 6, 7)).toEqual([2]);
});
