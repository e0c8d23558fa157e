/** Measurements of a run as curves to draw. */
import type { Schemas } from "../../../api/client";

export type Measured = Pick<Schemas["MetricView"], "name" | "step" | "epoch" | "value">;

export interface Curve {
  /** The name of what was measured, such as `train_loss`. */
  readonly name: string;
  /** By step; steps without a finite value are left out. */
  readonly points: readonly { readonly step: number; readonly value: number }[];
  /** What a constant prediction reaches, where that is known. */
  readonly baseline: number | null;
  /** How many measurements were not finite. */
  readonly gaps: number;
}

/**
 * Measurements in the order of writing, with each step once: a run that was interrupted writes the
 * steps that it repeats again.
 */
export function merged(known: readonly Measured[], added: readonly Measured[]): Measured[] {
  const all = new Map<string, Measured>();
  for (const each of [...known, ...added]) all.set(`${each.name} ${each.step}`, each);
  return [...all.values()];
}

const BASELINE = "baseline_";
const FIRST = ["train_loss", "learning_rate"];

/** A curve for each name, loss and learning rate first; baselines go with what they are of. */
export function curvesOf(measured: readonly Measured[]): Curve[] {
  const byName = new Map<string, Measured[]>();
  for (const each of measured) {
    const known = byName.get(each.name);
    if (known) known.push(each);
    else byName.set(each.name, [each]);
  }
  const names = [...byName.keys()].filter((name) => !name.startsWith(BASELINE));
  const place = (name: string) => (FIRST.indexOf(name) + FIRST.length + 1) % (FIRST.length + 1);
  names.sort((one, other) => place(one) - place(other) || one.localeCompare(other));
  return names.map((name) => {
    const points = (byName.get(name) ?? [])
      .flatMap(({ step, value }) => (value === null ? [] : [{ step, value }]))
      .sort((one, other) => one.step - other.step);
    const baseline = byName.get(BASELINE + name.replace(/^(train|validation)_/, ""))?.at(-1)?.value;
    const gaps = (byName.get(name)?.length ?? 0) - points.length;
    return { name, points, baseline: baseline ?? null, gaps };
  });
}
