/** Places of layers in several orders, for charts whose lines cross where orders differ. */

export interface Placed {
  readonly column: string;
  readonly layer: string;
  /** From 1. */
  readonly rank: number;
}

/** A place for each layer in each order; orders are of names, best first. */
export function placesOf(orders: readonly (readonly [string, readonly string[]])[]): Placed[] {
  return orders.flatMap(([column, order]) =>
    order.map((layer, index) => ({ column, layer, rank: index + 1 })),
  );
}

/** Names by their scores, best first; equal ones in the order in which they are given. */
export function orderOf(scores: Readonly<Record<string, number>>): string[] {
  return Object.keys(scores).sort((one, other) => (scores[other] ?? 0) - (scores[one] ?? 0));
}
