/** Faults of a request, at the fields that are to blame. */
import { createContext, useContext } from "react";
import type { ProblemDocument } from "../api/problem";

export type Fault = NonNullable<ProblemDocument["errors"]>[number];

/** The faults of what the service has last refused. */
export const Faults = createContext<readonly Fault[]>([]);

/** Those at a pointer, or below it. */
export function faultsAt(faults: readonly Fault[], pointer: string): Fault[] {
  return faults.filter(({ pointer: at }) => at === pointer || at?.startsWith(`${pointer}/`));
}

/** None for what is no field of the request. */
export function useFaults(pointer: string | undefined): Fault[] {
  const faults = useContext(Faults);
  return pointer === undefined ? [] : faultsAt(faults, pointer);
}
