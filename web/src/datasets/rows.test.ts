import { expect, test } from "vitest";
import { faultsByFile, faultyRows } from "./faultyRows";
import { rowsOf } from "./rows";

const file = (name: string, ...parts: BlobPart[]) => new File(parts, name);

test("rows are counted as the service counts them: without header and blank lines", async () => {
  const csv = file("a.csv", '\uFEFFtext,label\r\n\r\n"two\nlines, one cell",0\r\nb,1\r\n\r\nc,2\r\n');
  const { columns, rows } = await rowsOf(csv, new Set([1, 3]));
  expect(columns).toEqual(["text", "label"]);
  expect([...rows]).toEqual([
    [1, ["two\nlines, one cell", "0"]],
    [3, ["c", "2"]],
  ]);
});

test("of JSON Lines the columns are those of any row, and what is no object is shown as it is", async () => {
  const lines = file("a.jsonl", '{"text": "a"}\n\n{"label": [1]}\n{"text": \n');
  const { columns, rows } = await rowsOf(lines, new Set([1, 2, 3, 9]));
  expect(columns).toEqual(["text", "label"]);
  expect(rows.get(1)).toEqual(["a", ""]);
  expect(rows.get(2)).toEqual(["", "[1]"]);
  expect(rows.get(3)).toEqual(['{"text": ']);
  expect(rows.has(9)).toBe(false);
});

test("compressed files are not read", async () => {
  expect((await rowsOf(file("a.csv.gz", "x"), new Set([1]))).rows.size).toBe(0);
});

test("a fault of several rows is told in each of them", () => {
  const empty = { detail: "empty", file: "a.csv", row: 2, rows: [2, 5], count: 9 };
  const label = { detail: "no label", file: "a.csv", row: 5 };
  expect(faultyRows([empty, label])).toEqual([
    { number: 2, faults: [empty] },
    { number: 5, faults: [empty, label] },
  ]);
  const whole = { detail: "UTF-16", file: "a.csv" };
  expect([...faultsByFile([empty, whole])]).toEqual([["a.csv", [empty]]]);
});
