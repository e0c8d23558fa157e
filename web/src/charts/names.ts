/** Names of layers as a chart has room for them. */

/**
 * What tells the names apart: without the dotted parts that all of them begin with, and as
 * `layer 3` where a number alone is left. By full name.
 */
export function shortNames(names: readonly string[]): ReadonlyMap<string, string> {
  const split = names.map((name) => name.split("."));
  const first = split[0] ?? [];
  let shared = 0;
  while (split.every((parts) => shared < parts.length - 1 && parts[shared] === first[shared])) {
    if (split.length === 0) break;
    shared += 1;
  }
  const word = first[shared - 1] ?? "layer";
  return new Map(
    split.map((parts, index) => {
      const rest = parts.slice(shared).join(".");
      return [names[index] ?? "", /^\d+$/.test(rest) ? `${word} ${rest}` : rest];
    }),
  );
}

/** The index of the block that a layer, or a part of one, is in; null where the name has none. */
export function blockOf(name: string): number | null {
  const found = /(?:^|[._])(\d+)(?:\.|$)/.exec(name);
  return found ? Number(found[1]) : null;
}

const CHARACTER_PIXELS = 6.6; // at the size of a chart's words
const UPRIGHT_PIXELS = 20; // names that are closer would overlap when slanted
const SHORT = new Intl.NumberFormat(undefined, { maximumSignificantDigits: 4 });

const PREFIXES = [[1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"]] as const;

/** A number as an axis has room for it, with a prefix of the SI, the same in every language. */
export function axisDigits(value: number): string {
  const [unit, prefix] = PREFIXES.find(([least]) => Math.abs(value) >= least) ?? [1, ""];
  return digits(value / unit) + prefix;
}

/** The name of a metric in words: `matthews_correlation` is `Matthews correlation`. */
export function metricTitle(name: string): string {
  const words = name.replaceAll("_", " ");
  return words.charAt(0).toUpperCase() + words.slice(1);
}

/** A number with four digits that count. */
export function digits(value: number | null | undefined): string {
  if (value == null) return "–";
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-3 || size >= 1e7)) return value.toExponential(2);
  return SHORT.format(value);
}

/** The room that slanted names below an axis take, in pixels; less where they fit side by side. */
export function slanted(names: readonly string[], room: number) {
  const longest = CHARACTER_PIXELS * Math.max(...names.map((name) => name.length), 0);
  if (longest < room) return { rotate: 0, pixels: 20 };
  if (room < UPRIGHT_PIXELS) return { rotate: -90, pixels: longest + 20 };
  return { rotate: -45, pixels: 0.72 * longest + 24 };
}

/** Where the name of an axis has room below it: under its middle, or from its right end leftwards. */
export function anchorOf(label: string, width: number, left: number, right: number) {
  const overhang = (CHARACTER_PIXELS * label.length - (width - left - right)) / 2;
  return overhang < Math.min(left, right) ? "center" : "right";
}

/** An interval in words. */
export function between(ci: readonly [number, number] | null | undefined): string {
  return ci ? `${digits(ci[0])} to ${digits(ci[1])}` : "–";
}
