/** Numbers, times and sizes in the reader's locale. */

const WHOLE = new Intl.NumberFormat();
const MOMENT = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });
const CLOCK = new Intl.DateTimeFormat(undefined, { timeStyle: "medium" });
const UNITS: readonly (readonly [string, number])[] = [
  ["day", 86400],
  ["hour", 3600],
  ["minute", 60],
  ["second", 1],
];
const BYTES = ["byte", "kilobyte", "megabyte", "gigabyte", "terabyte"] as const;

const DAY = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeZone: "UTC" });
const MONTH = new Intl.DateTimeFormat(undefined, { month: "long", year: "numeric", timeZone: "UTC" });

/** A day such as `2026-12-01`, or a month such as `2026-12`. */
export function day(iso: string): string {
  return (iso.length > 7 ? DAY : MONTH).format(new Date(iso));
}

export const wholeNumber = (value: number): string => WHOLE.format(value);
export const moment = (iso: string): string => MOMENT.format(new Date(iso));
export const clock = (iso: string): string => CLOCK.format(new Date(iso));

/** Such as `1 min 32 sec`: the two largest units that are not zero. */
export function duration(seconds: number): string {
  if (seconds < 10) return inUnit(seconds, "second", seconds < 1 ? 2 : 1);
  let rest = Math.round(seconds);
  const parts: string[] = [];
  for (const [unit, size] of UNITS) {
    const count = Math.floor(rest / size);
    rest -= count * size;
    if (count) parts.push(inUnit(count, unit, 0));
  }
  return parts.slice(0, 2).join(" ");
}

export function bytes(count: number): string {
  const power = count < 1 ? 0 : Math.min(BYTES.length - 1, Math.floor(Math.log10(count) / 3));
  if (power === 0) return inUnit(count, "byte", 0, "long"); // the short form has no plural
  return inUnit(count / 1000 ** power, BYTES[power] ?? "byte", 1);
}

export function percent(value: number): string {
  return new Intl.NumberFormat(undefined, { style: "percent", maximumFractionDigits: 0 }).format(
    value / 100,
  );
}

function inUnit(value: number, unit: string, digits: number, unitDisplay: "short" | "long" = "short"): string {
  return new Intl.NumberFormat(undefined, {
    style: "unit",
    unit,
    unitDisplay,
    maximumFractionDigits: digits,
  }).format(value);
}
