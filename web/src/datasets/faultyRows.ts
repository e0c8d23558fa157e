import type { ProblemDocument } from "../api/problem";

export type Fault = NonNullable<ProblemDocument["errors"]>[number];

export interface FaultyRow {
  readonly number: number;
  readonly faults: readonly Fault[];
}

/** The faults of a file by row. One that several rows share is told in each of those it names. */
export function faultyRows(faults: readonly Fault[]): FaultyRow[] {
  const byRow = new Map<number, Fault[]>();
  for (const fault of faults) {
    const numbers = fault.rows?.length ? fault.rows : fault.row == null ? [] : [fault.row];
    for (const number of numbers) byRow.set(number, [...(byRow.get(number) ?? []), fault]);
  }
  const rows = [...byRow].map(([number, found]) => ({ number, faults: found }));
  return rows.sort((one, other) => one.number - other.number);
}

/** The faults that have rows, by file; of the others, those of the request itself. */
export function faultsByFile(faults: readonly Fault[]): ReadonlyMap<string, Fault[]> {
  const files = new Map<string, Fault[]>();
  for (const fault of faults) {
    if (fault.file == null || (fault.row == null && !fault.rows?.length)) continue;
    files.set(fault.file, [...(files.get(fault.file) ?? []), fault]);
  }
  return files;
}
