/** Rows of a file on the reader's machine, as the service counts them: from 1, without the header. */
import Papa from "papaparse";

export interface FileRows {
  readonly columns: readonly string[];
  /** The cells of the rows that were asked for, by their number. */
  readonly rows: ReadonlyMap<number, readonly string[]>;
}

// Only the beginning is read: a fault in the millionth row is told without its content.
const READ_BYTES = 8_000_000;
const NOTHING: FileRows = { columns: [], rows: new Map() };

/** The rows with these numbers. Of compressed files and of Parquet, nothing is read here. */
export async function rowsOf(file: File, numbers: ReadonlySet<number>): Promise<FileRows> {
  const name = file.name.toLowerCase();
  const read = /\.(csv|tsv)$/.test(name) ? delimited : /\.(jsonl|ndjson|json)$/.test(name) ? jsonLines : null;
  if (!read || numbers.size === 0) return NOTHING;
  const text = await file.slice(0, READ_BYTES).text();
  return read(text.replace(/^\uFEFF/, ""), numbers, name.endsWith(".tsv") ? "\t" : ",");
}

function delimited(text: string, numbers: ReadonlySet<number>, delimiter: string): FileRows {
  const last = Math.max(...numbers);
  const rows = new Map<number, string[]>();
  const header: string[][] = [];
  let number = 0;
  Papa.parse<string[]>(text, {
    delimiter,
    step: ({ data }, parser) => {
      if (data.length === 1 && data[0]?.trim() === "") return;
      if (header.length === 0) {
        header.push(data);
        return;
      }
      number += 1;
      if (numbers.has(number)) rows.set(number, data);
      if (number >= last) parser.abort();
    },
  });
  return { columns: header[0] ?? [], rows };
}

function jsonLines(text: string, numbers: ReadonlySet<number>): FileRows {
  const lines = text.split("\n").filter((line) => line.trim() !== "");
  const objects = new Map<number, Readonly<Record<string, unknown>> | string>();
  for (const number of numbers) {
    const line = lines[number - 1];
    if (line !== undefined) objects.set(number, objectOr(line));
  }
  const found = [...objects.values()].filter((each) => typeof each !== "string");
  const columns = [...new Set(found.flatMap((each) => Object.keys(each)))];
  const rows = new Map<number, string[]>();
  for (const [number, each] of objects) {
    rows.set(number, typeof each === "string" ? [each] : columns.map((column) => cell(each[column])));
  }
  return { columns, rows };
}

/** The object of a line, or the line itself where it is none. */
function objectOr(line: string): Readonly<Record<string, unknown>> | string {
  try {
    const value: unknown = JSON.parse(line);
    if (typeof value === "object" && value !== null) return value as Record<string, unknown>;
  } catch {
    // The fault says what is wrong with the line.
  }
  return line;
}

function cell(value: unknown): string {
  if (value === undefined) return "";
  return typeof value === "string" ? value : JSON.stringify(value);
}
