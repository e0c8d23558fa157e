/** Which of several ways are worth their cost. */

export interface Priced {
  readonly cost: number;
  readonly value: number;
}

/**
 * Those beside which no other costs less and reaches as much, or costs as much and reaches more:
 * cheapest first. Of equal ones all are kept.
 */
export function paretoLine<T extends Priced>(all: readonly T[]): T[] {
  const better = (one: Priced, other: Priced) =>
    one.cost <= other.cost &&
    one.value >= other.value &&
    (one.cost < other.cost || one.value > other.value);
  return all
    .filter((each) => !all.some((other) => better(other, each)))
    .sort((one, other) => one.cost - other.cost || one.value - other.value);
}
